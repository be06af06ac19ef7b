"""A door into a running program: what may be asked of its pools, by whom, and a socket where it is asked.

    problems   why something was refused or did not work, in the words of RFC 9457
    arguments  reading the arguments of a request
    views      what is shown of a job, an event, a pool, as JSON
    history    the numbers of the last ten minutes, as far as somebody looked
    events     the last events of a pool, while somebody asks for them
    watched    a pool that is looked at, and what was seen and done
    filters    which jobs a request is about
    verbs      what can be asked: a closed list; the verbs themselves:
               looking, steering, many (jobs at once), store_verbs (with store_views), settings_verb
    what_if    how it would have been at another size
    families   the answer of `tree` in the order in which it is read
    call       carry out a request: check, run in the loop of the pool, write down who did what
    paths      where the sockets are
    server     the socket, in a thread of its own
    client     the other end
    face       `aiopool.control()`

It uses pools as any program does. Nothing runs before `control()` is called.
"""
