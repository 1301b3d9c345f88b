"""The model store: the contract between training and service, and the released versions."""
