"""Added times in every form, from recorded files: held against goals, and in the README's table."""
