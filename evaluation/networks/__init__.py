"""Networks by name, small ones of images, volumes and signals, and pretrained weights."""
