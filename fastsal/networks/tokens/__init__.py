"""Networks that keep one resolution of tokens: depths in place of scales."""
