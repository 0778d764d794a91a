"""Problem set 1: Norm and rotary embedding."""
