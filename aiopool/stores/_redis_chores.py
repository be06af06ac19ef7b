"""The scripts of the Redis store for what has to be done now and then: members, leases, the sweep, the history.

Rule: each does a bounded amount of work, says if there is more of it, and may be sent again as it is.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CHORES"]

_PURGE = r"""
local function purge(s, until_)
  -- All of a batch ended in one microsecond, and are numbered from there.
  local ids = cmd('ZRANGEBYSCORE', S .. s, '-inf', fmt('%.0f', until_ * 1e6 + 1000), 'LIMIT', 0, STEP)
  local keys = {}
  for i, id in ipairs(ids) do
    keys[2 * i - 1] = J .. id
    keys[2 * i] = B .. 'b:' .. id
  end
  if #ids > 0 then
    cmd('ZREM', S .. s, unpack(ids))
    cmd('UNLINK', unpack(keys))
  end
  return #ids
end
"""

_OPEN = r"""
-- 4: the member as JSON, 5: seconds of its lease, 6: the format
local format = cmd('HGET', B .. 'numbers', 'format')
if format and tonumber(format) > tonumber(ARGV[6]) then return format end
cmd('HSET', B .. 'numbers', 'format', ARGV[6])
cmd('HSET', B .. 'members', ME, '[' .. STAMP .. ',' .. ARGV[5] .. ',' .. ARGV[4] .. ']')
cmd('ZADD', B .. 'leases', at(NOW + ARGV[5]), ME)
return 'ok'
"""

_BEAT = r"""
-- 4: seconds of the lease
if cmd('HEXISTS', B .. 'members', ME) == 0 then return {0, STAMP} end
cmd('DEL', B .. 'void')
cmd('ZADD', B .. 'leases', at(NOW + ARGV[4]), ME)
return {1, STAMP}
"""

_CLOSE = r"""
cmd('DEL', B .. 'void')
local _, _, all = drop_member(ME)
tell(ME)
return all and 1 or 0
"""

_SWEEP = (
    _PURGE
    + r"""
-- 4: names, 5: keep, 6: keep_failed
local rescued, dead, late, unparked, purged, more = 0, 0, 0, 0, 0, false
cmd('DEL', B .. 'void')
local over = cmd('ZRANGEBYSCORE', B .. 'leases', '-inf', STAMP, 'LIMIT', 0, 20)
if #over > 0 then
  -- While the server was down nobody could live on: after its start everybody has another lease.
  local info = redis.pcall('INFO', 'server')
  local up = type(info) == 'string' and info:match('uptime_in_seconds:(%d+)')
  local born = up and REAL - up or -HUGE
  for _, id in ipairs(over) do
    local member = cmd('HGET', B .. 'members', id)
    local lease = member and cjson.decode(member)[2] or 0
    local ends = tonumber(cmd('ZSCORE', B .. 'leases', id))
    if member and ends - lease < born and ends > 0 and born + lease > NOW then
      cmd('ZADD', B .. 'leases', at(born + lease), id)
    elseif rescued < STEP then
      local n, lost = drop_member(id)
      rescued, dead = rescued + n, dead + lost
    else
      more = true
    end
  end
end
local overdue = cmd('ZRANGEBYSCORE', B .. 'late', '-inf', STAMP, 'LIMIT', 0, STEP)
fetch(overdue)
for _, id in ipairs(overdue) do
  local j = load(id)
  if not j or j.s == 'running' or ENDED[j.s] then rem(B .. 'late', id)
  elseif time_over(j) then late = late + 1
  else rem(B .. 'late', id); watch(j) end
end
settle_lanes()
if cmd('EXISTS', B .. 'parked') == 1 then
  for _, name in ipairs(cjson.decode(ARGV[4])) do
    local members = unparked < STEP and cmd('ZRANGE', B .. 'park:' .. name, 0, STEP - unparked - 1) or {}
    for _, member in ipairs(members) do
      local _, id = cut(member)
      local j = load(id)
      if j and j.s == 'parked' then
        leave(j)
        wait(j)
        unparked = unparked + 1
      else
        rem(B .. 'park:' .. name, member)
      end
    end
  end
  flush()
  for _, name in ipairs(cjson.decode(ARGV[4])) do
    if cmd('EXISTS', B .. 'park:' .. name) == 0 then cmd('ZREM', B .. 'parked', name) end
  end
end
for s in pairs(ENDED) do purged = purged + purge(s, NOW - ARGV[s == 'succeeded' and 5 or 6]) end
local lane_names = cmd('ZCARD', B .. 'held')
if lane_names > 0 then  -- a few of the lanes that hold somebody, in case a call got lost
  local from = floor(NOW * 10) % lane_names
  for _, name in ipairs(cmd('ZRANGE', B .. 'held', from, from + 9)) do call(name) end
end
if bring_due() then more = true end
tell('')
if max(rescued, late, unparked, purged) >= STEP then more = true end
return {rescued, dead, late, purged, unparked, more and 1 or 0}
"""
)

_FORGET = (
    _PURGE
    + r"""
-- 4: seconds
local n, more = 0, 0
for s in pairs(ENDED) do
  local gone = purge(s, NOW - ARGV[4])
  if gone == STEP then more = 1 end
  n = n + gone
end
return {n, more}
"""
)

CHORES: Final[dict[str, str]] = {
    "open": _OPEN,
    "beat": _BEAT,
    "close": _CLOSE,
    "sweep": _SWEEP,
    "forget_history": _FORGET,
}
"""By verb: the text of its script, without what all begin with."""
