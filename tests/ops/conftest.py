"""A `suite.Suite` is run over its own forms, sizes and layouts."""

TABLES = {"form": "FORMS", "size": "SIZES", "layout": "LAYOUTS", "strides": "STRIDES"}


def pytest_generate_tests(metafunc):
    for name, attribute in TABLES.items():
        table = getattr(metafunc.cls, attribute, {})
        if name in metafunc.fixturenames and table:
            metafunc.parametrize(name, list(table.values()), ids=list(table))
