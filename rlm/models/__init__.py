"""Who answers: models, and the limit and deadline under which they are asked."""
