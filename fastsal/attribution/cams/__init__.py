"""Class activation maps beyond Grad-CAM's family as Captum attribution classes."""
