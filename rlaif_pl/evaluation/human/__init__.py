"""Responses are ranked by people or models who do not know who wrote them; what their ranks say."""
