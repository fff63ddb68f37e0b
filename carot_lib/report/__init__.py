"""What is printed and drawn, and what the paper claims."""
