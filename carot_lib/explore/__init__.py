"""What the lab's notebooks do with widgets: look closer than a page can."""
