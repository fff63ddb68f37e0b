"""The code behind the CaRot compendium."""
