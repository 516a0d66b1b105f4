"""Saliency maps made of statistics: normalisation, upsampling, weighted average."""
