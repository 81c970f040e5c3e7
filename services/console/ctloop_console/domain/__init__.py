"""Pure folds over facts."""
