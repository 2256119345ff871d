"""Mixed load on a real gateway while its engines and upstreams are killed, stopped and cut off; what must hold at the end."""
