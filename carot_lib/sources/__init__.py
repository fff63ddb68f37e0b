"""Where images come from: the miniature draws its own, ImageNet and folders bring theirs."""
