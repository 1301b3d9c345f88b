"""The rivals, each written the way its users write it, and the bare loop; run in environments of their own."""
