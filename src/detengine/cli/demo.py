def run_demo(o): pass
