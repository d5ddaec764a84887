"""What a person reads of the results: a page, the same as text, a table in a terminal."""
