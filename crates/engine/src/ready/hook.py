# Python imports this as the site's own customization, before it opens the program. Everything it does to the interpreter it takes back, or is
# what a start would have come to: it imports nothing that a start has not imported. What is frozen for the collector
# is the one thing that stays, and is told in docs/templates.md.
def wait():
    import os
    import sys

    here = __file__.rpartition('/')[0]
    sys.path.remove(here)
    sys.path_importer_cache.pop(here, None)
    del sys.modules['sitecustomize']
    environ = os.environ
    _, _, others = environ['PYTHONPATH'].partition(':')
    if others:
        environ['PYTHONPATH'] = others
    else:
        del environ['PYTHONPATH']

    seen = set()
    encode, decode = environ.encodekey, environ.decodekey

    def encoded(name):
        key = encode(name)
        seen.add(key)
        return key

    def decoded(key):
        # Somebody goes through all of them.
        seen.add(b'*')
        return decode(key)

    environ.encodekey, environ.decodekey = encoded, decoded
    failure = None
    try:
        # The site's real one, if there is one.
        import sitecustomize
    except Exception as error:
        failure = error
    start = set(sys.modules)
    for name in MODULES:
        try:
            # As if the program did it, so that warnings are told that it would be told.
            exec('import ' + name, {'__name__': '__main__'})
        except BaseException as error:
            os.write(2, ('cannot import %s: %r' % (name, error)).encode(errors='replace'))
            os._exit(1)
    environ.encodekey, environ.decodekey = encode, decode

    def tell(name, lines):
        with open(here + '/' + name, 'wb') as file:
            file.write(b'\n'.join(lines))

    tell('fixed', seen)
    tell('taken', {os.fsencode(name.partition('.')[0]) for name in set(sys.modules) - start})
    # What there is by now stays to the end: neither the collector nor the end of the interpreter looks through it any more.
    had = 'gc' in sys.modules
    import gc

    gc.collect()
    gc.freeze()
    if not had:
        del sys.modules['gc']
    sys.stdout.flush()
    sys.stderr.flush()
    gate = os.open(here + '/gate', os.O_RDONLY)
    message = b''
    while piece := os.read(gate, 65536):
        message += piece
    os.close(gate)
    records = message.split(b'\0')
    if records[-2:] != [b'.', b'']:
        os._exit(1)
    for record in records[:-2]:
        kind, rest = record[:1], record[1:]
        if kind == b'a':
            argument = os.fsdecode(rest)
            sys.argv.append(argument)
            if hasattr(sys, 'orig_argv'):
                sys.orig_argv.append(argument)
        elif kind == b'd':
            os.environb.pop(rest, None)
        elif kind == b's':
            name, _, value = rest.partition(b'=')
            os.environb[name] = value
    if failure is not None:
        # That there is none is what Python expects; anything else it tells.
        raise failure


wait()
