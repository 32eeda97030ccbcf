"""Commands of the maintainers: each fits predictors that ship with the packages."""
