"""What a search knows: records of its candidates, kept in a store; samplers that propose from them."""
