"""How a comparison grows: time and memory against workers, engines, images, methods, fractions."""
