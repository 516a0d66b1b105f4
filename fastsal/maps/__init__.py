"""From a statistic to a saliency map: normalisation, upsampling, weighted average."""
