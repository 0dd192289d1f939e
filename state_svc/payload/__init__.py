"""Large bodies: taken in, handed out, collected when nobody references them."""
