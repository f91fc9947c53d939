"""Foreign formats to schema v1, one file each; the contract is `formats.Converted`."""
