"""Fine-tunes trained networks in TF Model Garden's Faster R-CNN (section 4.2, supplement B.4)."""
