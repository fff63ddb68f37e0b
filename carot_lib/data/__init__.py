"""Images and captions: the miniature draws its own, ImageNet and folders bring theirs."""
