"""How each call is cut into tiles that fit L1, and a checker."""
