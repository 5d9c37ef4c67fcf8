def test_x(trained):
    import jaxlm
    g=jaxlm.load(trained)
    print(g.generate("the quick",40,temperature=0,mode="state"))
    print(g.generate("the quick",40,temperature=0))
