"""What a gateway says about itself: log lines and numbers."""
