"""`aiopool torture`: kills the processes of a fleet at random, and proves from their own records that no job was lost,
run too often, or ended twice.

journal     what the processes saw, one line each, in files that outlive them
work        the handlers, and the mixture of jobs
host        a process that runs jobs; `python -m aiopool._torture.host`
producer    a process that submits and cancels them; `python -m aiopool._torture.producer`
tormentor   starts all these, and kills them
proxy       cuts, delays and freezes their connections
servers     private servers that may be killed, too
account     what the journals and the store say, held against each other; knows no process
report      the outcome, as a table or as JSON
torture     the whole

It uses the face, as programs do.
"""
