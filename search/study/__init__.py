"""The state of a search: records of its candidates in a store, and samplers that propose from them."""
