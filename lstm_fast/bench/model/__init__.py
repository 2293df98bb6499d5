"""`lstm-fast bench --model`: a user's own model beside an accelerated copy of it."""
