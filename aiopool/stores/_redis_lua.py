"""What all scripts of the Redis store begin with: the keys, where a job is, and how it gets elsewhere.

Rule 1: a script is one verb for one batch. Redis runs it alone, and writes what it did as one transaction.

Rule 2: all keys of a queue are built from one hash tag, `{prefix:queue}`, the only declared key, so they live on one
node of a cluster:

    j:<id>     TEXT  a job: its status, and whatever changes, packed (see `parse`)
    b:<id>     TEXT  what never changes of it, as JSON: written by Python, read by Python
    s:<status> ZSET  all jobs of a status: waiting ones by position, ended ones in the order in which they ended. There
                     is none of the running ones: they are in `own:`
    queue      ZSET  what is queued, by <line><id>. All scores are 0, so the order is that of the bytes: a score is a
                     float, which cannot hold a priority and a position exactly
    due        ZSET  what is scheduled, by its moment
    late       ZSET  what waits and has a time limit, by the moment at which it is over
    park:<name>  ZSET  what is parked, by line; `parked` (ZSET) has the names
    own:<incarnation>  ZSET  what it holds, by position; `ask:<incarnation>` HASH: cancels that it has to hear
    members    HASH  the incarnations; `leases` ZSET: when each of them is dead
    run:<lane> SET   what runs in a lane; `held:<lane>` ZSET: what is held there, by line; `call:<lane>` ZSET: what
                     was called back for a place and has not come yet; `tat:<lane>`, `win:<lane>`: the last starts
    held       ZSET  the lanes that hold somebody; `opens` ZSET: those whose rate opens at a moment
    limits, unique, ticks, numbers (HASH), paused

Rule 3: jobs are read once, changed in memory (`save` says so), and written together with the rows of sorted sets, all
at once: removals first. So between a change and a read of the same set stands a `flush()`.

Rule 4: a script that makes the store bigger begins with a write that Redis refuses when its memory is full, so nothing
is half written; the others begin with one that it never refuses, so a full store can still be worked off.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BASE", "PLACES"]

# ARGV[1]: what is added to the server's clock (tests); ARGV[2]: the incarnation; ARGV[3]: "1": WAITAOF comes after it,
# so it has to write something, be it sent for the second time.
BASE: Final = r"""
local B, cmd, fmt, floor = KEYS[1] .. ':', redis.call, string.format, math.floor
local clock = cmd('TIME')
local REAL = clock[1] + clock[2] / 1e6
-- STEP: so many rows one call moves that were not named by the caller.
local NOW, ME, STEP = REAL + ARGV[1], ARGV[2], 500
local J, S, QUEUE = B .. 'j:', B .. 's:', B .. 'queue'
local min, max, pack, unpacked = math.min, math.max, cmsgpack.pack, cmsgpack.unpack
local ROUNDING, HUGE = 1e-6, math.huge
local ENDED = {succeeded = true, failed = true, timed_out = true, cancelled = true, dead = true}

local function at(moment) return fmt('%.6f', moment) end
local STAMP = at(NOW)
local function text(value) return value and cjson.encode(value) or 'null' end
local function num(value) return value and value ~= '' and value or 'null' end

-- Jobs. What nearly all of them have comes first, in one order; the rest, if there is any, is a table after it.
--   s status, r line, a attempts, x crashes, f fence, t created, y submitter, n name, m max_crashes, o owner,
--   w started, d the fence that was settled last, z ended, v seconds of the last attempt, S result
--   u run_at, q queue_until, Q queue_timeout, e total_until, k unique, l lanes (JSON), g group, h the lane that holds
--   it or has called it, c a cancel is asked, P progress (JSON), E error, R reason
local REST = {'u', 'q', 'Q', 'e', 'k', 'l', 'g', 'h', 'c', 'P', 'E', 'R'}
local jobs, dirty, changes = {}, {}, 0
local function parse(id, packed)
  local s, r, a, x, f, t, y, n, m, o, w, d, z, v, S_, rest = unpacked(packed)
  local j = {id = id, s = s, r = r, a = a, x = x, f = f, t = t, y = y, n = n, m = m, o = o, w = w, d = d, z = z, v = v,
    S = S_}
  if rest then for letter, value in pairs(rest) do j[letter] = value end end
  jobs[id] = j
  return j
end
local function packed(j)
  local rest
  for i = 1, 12 do
    local letter = REST[i]
    local value = j[letter]
    if value then
      if not rest then rest = {} end
      rest[letter] = value
    end
  end
  return pack(j.s, j.r, j.a, j.x, j.f, j.t, j.y, j.n, j.m, j.o, j.w, j.d, j.z, j.v, j.S, rest)
end
local function save(j)
  if not j.dirty then
    j.dirty = true
    changes = changes + 1
    dirty[changes] = j
  end
end
local function load(id)
  local j = jobs[id]
  if j == nil then
    local found = cmd('GET', J .. id)
    j = found and parse(id, found)
    jobs[id] = j
  end
  return j
end
local function fetch(ids)  -- all at once; `load` gives them then
  local keys, missing = {}, {}
  for _, id in ipairs(ids) do
    if jobs[id] == nil then
      keys[#keys + 1] = J .. id
      missing[#missing + 1] = id
    end
  end
  for i = 1, #keys, 2000 do
    for n, found in ipairs(cmd('MGET', unpack(keys, i, min(i + 1999, #keys)))) do
      local id = missing[i + n - 1]
      if found then parse(id, found) else jobs[id] = false end
    end
  end
end
local texts = {}  -- keys and values, to be written
local function flush_texts()
  for i = 1, changes do
    local j = dirty[i]
    j.dirty = nil
    texts[#texts + 1] = J .. j.id
    texts[#texts + 1] = packed(j)
  end
  for i = 1, #texts, 2000 do cmd('MSET', unpack(texts, i, min(i + 1999, #texts))) end
  if #texts > 0 then texts, dirty, changes = {}, {}, 0 end
end

-- Ends are numbered by the microsecond in which they came, each later than the one before: so the old ones are found
-- without a look at them.
local numbered
local function ended_number()
  if not numbered then
    numbered = max(tonumber(cmd('HGET', B .. 'numbers', 'ended') or 0), floor(NOW * 1e6))
  end
  numbered = numbered + 1
  return fmt('%d', numbered)
end

-- Writes to sorted sets, collected.
local adds, rems = {}, {}
local function add(key, score, member)
  local t = adds[key]
  if not t then t = {}; adds[key] = t end
  local n = #t
  t[n + 1] = score; t[n + 2] = member
end
local function rem(key, member)
  local t = rems[key]
  if not t then t = {}; rems[key] = t end
  t[#t + 1] = member
end
local function flush()
  flush_texts()
  if numbered then cmd('HSET', B .. 'numbers', 'ended', fmt('%.0f', numbered)); numbered = nil end
  for key, t in pairs(rems) do
    for i = 1, #t, 2000 do cmd('ZREM', key, unpack(t, i, min(i + 1999, #t))) end
  end
  for key, t in pairs(adds) do
    for i = 1, #t, 2000 do cmd('ZADD', key, unpack(t, i, min(i + 1999, #t))) end
  end
  adds, rems = {}, {}
end

-- A line is a rank (the priority, so that bytes sort as numbers do: a sign, how many digits, the digits) and a position
-- of 16 digits. `cut` takes it off a member.
local function cut(member)
  local digits = tonumber(member:sub(2, 4))
  if member:sub(1, 1) == '0' then digits = 999 - digits end
  return member:sub(1, 20 + digits), member:sub(21 + digits)
end
local function cut_rank(head)  -- a rank and what stands after it
  local digits = tonumber(head:sub(2, 4))
  if head:sub(1, 1) == '0' then digits = 999 - digits end
  return head:sub(1, 4 + digits), head:sub(5 + digits)
end
local function position(line) return line:sub(-16) end

local work, told, asked = false, {}, {}
local function tell(by)
  local fin, can = {}, {}
  for id in pairs(told) do if id ~= '' then fin[#fin + 1] = id end end
  for id in pairs(asked) do can[#can + 1] = id end
  if work or #fin > 0 or #can > 0 then
    cmd('PUBLISH', B .. 'wake', cjson.encode({by, work and 1 or 0, fin, can}))
  end
end
"""

PLACES: Final = r"""
-- From place to place.
local function deadline(j)
  local q, e = j.a == 0 and j.q, j.e
  if q and (not e or q <= e) then return q, 'queue_timeout' end
  if e then return e, 'total_timeout' end
end
local function leave(j)
  local id, s = j.id, j.s
  if s == 'running' then
    rem(B .. 'own:' .. j.o, id)
    if j.c then cmd('HDEL', B .. 'ask:' .. j.o, id) end
    if j.l then vacate(id, j.l) end
    return
  end
  rem(S .. s, id)
  if j.q or j.e then rem(B .. 'late', id) end
  if s == 'queued' then rem(QUEUE, j.r .. id); drop_call(j)
  elseif s == 'scheduled' then rem(B .. 'due', id)
  elseif s == 'limited' then
    rem(B .. 'held:' .. j.h, j.r .. id)
    touched[j.h] = true
    j.h = nil
  elseif s == 'parked' then rem(B .. 'park:' .. j.n, j.r .. id)
  end
end
local function watch(j)
  if j.q or j.e then
    local moment = deadline(j)
    if moment then add(B .. 'late', at(moment), j.id) end
  end
end
local function wait(j)  -- for its moment, or for a worker
  watch(j)
  if j.u and j.u > NOW then
    add(B .. 'due', at(j.u), j.id)
    j.s = 'scheduled'
  else
    add(QUEUE, '0', j.r .. j.id)
    work = true
    j.s = 'queued'
  end
  add(S .. j.s, position(j.r), j.id)
  save(j)
end
local function park(j)
  watch(j)
  j.s = 'parked'
  add(S .. 'parked', position(j.r), j.id)
  add(B .. 'park:' .. j.n, '0', j.r .. j.id)
  add(B .. 'parked', '0', j.n)
  save(j)
end
local function stop(j)  -- it ran until now
  leave(j)
  j.v = max(0, NOW - j.w)
  j.o, j.c = nil, nil
end
local function finish(j, s, result, err, reason, by)
  if j.s == 'running' then stop(j) else leave(j) end
  j.s, j.z, j.S = s, NOW, result or nil
  if reason then j.R = reason end
  if err then j.E = err elseif s == 'succeeded' then j.E = nil end
  add(S .. s, ended_number(), j.id)
  if j.k and cmd('HGET', B .. 'unique', j.k) == j.id then cmd('HDEL', B .. 'unique', j.k) end
  if j.y ~= by then told[j.y] = true end
  save(j)
end
local function time_over(j)
  local moment, limit = deadline(j)
  if not moment or moment > NOW then return false end
  finish(j, 'timed_out', nil, fmt('{"type": "JobTimeoutError", "limit": "%s"}', limit))
  return true
end
local function rescue(j)  -- from an owner that is dead; whether the job was given up
  j.x = j.x + 1
  cmd('HINCRBY', B .. 'numbers', 'rescued', 1)
  if j.c then finish(j, 'cancelled', nil, nil, j.R); return false end
  if j.x >= j.m then
    local died = j.x > 1 and j.x .. ' of its workers' or 'its worker'
    finish(j, 'dead', nil, fmt('{"type": "JobDeadError", "message": "%s died while it ran"}', died))
    return true
  end
  stop(j)
  wait(j)
  return false
end
local function bring_due()  -- whether there is more of it
  local ids = cmd('ZRANGEBYSCORE', B .. 'due', '-inf', STAMP, 'LIMIT', 0, STEP)
  if #ids > 0 then
    fetch(ids)
    for _, id in ipairs(ids) do
      local j = load(id)
      rem(B .. 'due', id); rem(S .. 'scheduled', id)
      if j then
        j.s = 'queued'
        save(j)
        add(QUEUE, '0', j.r .. id); add(S .. 'queued', position(j.r), id)
        work = true
      end
    end
    flush()
  end
  local open = cmd('ZRANGEBYSCORE', B .. 'opens', '-inf', at(NOW + ROUNDING), 'LIMIT', 0, 50)
  for _, name in ipairs(open) do call(name) end
  return #ids == STEP
end
local function next_moment()
  local due = cmd('ZRANGE', B .. 'due', 0, 0, 'WITHSCORES')[2]
  local opens = cmd('ZRANGE', B .. 'opens', 0, 0, 'WITHSCORES')[2]
  due, opens = tonumber(due), tonumber(opens)
  if due and opens then return min(due, opens) end
  return due or opens
end
local function drop_member(id)  -- what it holds goes back, a step of it; the counts, and whether it is all
  cmd('HDEL', B .. 'members', id)
  local ids = cmd('ZRANGE', B .. 'own:' .. id, 0, STEP - 1)
  local dead = 0
  fetch(ids)
  for _, job in ipairs(ids) do
    local j = load(job)
    if j and j.s == 'running' then
      if rescue(j) then dead = dead + 1 end
    else
      rem(B .. 'own:' .. id, job)
    end
  end
  settle_lanes()
  if #ids < STEP then
    cmd('DEL', B .. 'own:' .. id, B .. 'ask:' .. id)
    cmd('ZREM', B .. 'leases', id)
  end
  return #ids, dead, #ids < STEP
end
local MOMENTS = {'t', 'w', 'z', 'u', 'q', 'e', 'Q'}
local function row(id)  -- for find and page
  local j, blob = load(id), cmd('GET', B .. 'b:' .. id)
  if not j or not blob then return nil end
  local fields = {}
  for letter, value in pairs(j) do fields[letter] = value end
  fields.id, fields.dirty = nil, nil
  for _, letter in ipairs(MOMENTS) do if fields[letter] then fields[letter] = at(fields[letter]) end end
  return '[' .. blob .. ',' .. cjson.encode(fields) .. ']'
end
"""
