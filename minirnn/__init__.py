"""minirnn"""
