"""Captioning and filtering (CapFilt, arXiv 2201.12086, section 3.3): web image-text pairs -> a dataset to train on."""
