"""The scripts of the Redis store with which somebody steers: pauses, limits, jobs put back, jobs moved elsewhere.

Rule: each may be sent again as it is: what was done already is left alone. Batches are bounded by whoever calls.
"""

from __future__ import annotations

from typing import Final

__all__ = ["STEERING"]

_PAUSE = r"""
-- 4: '1' or '0'
if ARGV[4] == '1' then cmd('SET', B .. 'paused', '1') else cmd('DEL', B .. 'paused') end
work = true
tell('')
"""

_LIMITS = r"""
-- 4: rows of rule, JSON. Lanes that hold more than a step are called on by the claims.
for _, v in ipairs(cjson.decode(ARGV[4])) do
  cmd('HSET', B .. 'limits', v[1], v[2])
  local from, to = '[' .. v[1] .. '\31', '(' .. v[1] .. '\32'
  for _, name in ipairs(cmd('ZRANGEBYLEX', B .. 'held', from, to, 'LIMIT', 0, 10000)) do
    cmd('ZADD', B .. 'opens', STAMP, name)
  end
  if cmd('ZSCORE', B .. 'held', v[1]) then cmd('ZADD', B .. 'opens', STAMP, v[1]) end
end
bring_due()
work = true
tell('')
"""

_REQUEUE = r"""
-- 4: ids, or a status; 5: a status that they must have, or ''; 6: how many of the status stay where they are
local ids, skip = nil, tonumber(ARGV[6])
local done, left = 0, 0
if skip >= 0 then ids = cmd('ZRANGE', S .. ARGV[4], skip, skip + STEP - 1) else ids = cjson.decode(ARGV[4]) end
fetch(ids)
for _, id in ipairs(ids) do
  local j = load(id)
  if j and ENDED[j.s] and (ARGV[5] == '' or j.s == ARGV[5])
    and not (j.k and cmd('HEXISTS', B .. 'unique', j.k) == 1) then
    local queued_at = max(j.u or j.t, j.t)
    rem(S .. j.s, id)
    if j.k then cmd('HSET', B .. 'unique', j.k, id) end
    if j.q then j.q = j.Q and NOW + j.Q or j.q + NOW - queued_at end
    if j.e then j.e = j.e + NOW - j.t end
    j.r = j.r:sub(1, -17) .. fmt('%016.0f', cmd('HINCRBY', B .. 'numbers', 'position', 1))
    j.a, j.x, j.t = 0, 0, NOW
    j.u, j.w, j.z, j.v, j.S, j.E, j.R, j.P, j.h = nil, nil, nil, nil, nil, nil, nil, nil, nil
    wait(j)
    done = done + 1
  else
    left = left + 1
  end
end
flush()
tell('')
return {done, left, #ids == STEP and 1 or 0}
"""

_EXPORT = r"""
-- 4: how many
local most, ids, out = min(tonumber(ARGV[4]), STEP), nil, {}
ids = cmd('ZRANGE', S .. 'moving', 0, most - 1)
if #ids < most then
  local function take(members)
    for _, member in ipairs(members) do
      if #ids >= most then return end
      ids[#ids + 1] = member
    end
  end
  for _, member in ipairs(cmd('ZRANGE', QUEUE, 0, most - #ids - 1)) do
    local _, id = cut(member)
    ids[#ids + 1] = id
  end
  for _, s in ipairs({'limited', 'scheduled', 'parked'}) do take(cmd('ZRANGE', S .. s, 0, most - 1)) end
end
fetch(ids)
for _, id in ipairs(ids) do
  local j = load(id)
  if j then
    if j.s ~= 'moving' then
      leave(j)
      j.s = 'moving'
      save(j)
      add(S .. 'moving', position(j.r), id)
    end
    out[#out + 1] = row(id)
  end
end
settle_lanes()
tell(ME)
return '[' .. table.concat(out, ',') .. ']'
"""

_RESTORE = r"""
-- 4: rows of id, status, fields; 5…: their texts
for i, v in ipairs(cjson.decode(ARGV[4])) do
  local id, j = v[1], v[3]
  local now_at = tonumber(cmd('HGET', B .. 'numbers', 'position') or 0)
  local pos = tonumber(position(j.r))
  if pos > now_at then cmd('HINCRBY', B .. 'numbers', 'position', pos - now_at) end
  if not load(id) then
    -- Two that were accepted elsewhere are two jobs.
    if j.k and cmd('HSETNX', B .. 'unique', j.k, id) == 0 then j.k = nil end
    j.id = id
    jobs[id] = j
    texts[#texts + 1] = B .. 'b:' .. id
    texts[#texts + 1] = ARGV[4 + i]
    if v[2] == 'parked' then park(j) else wait(j) end
  end
end
flush()
work = true
tell('')
"""

_FORGET_MOVED = r"""
-- 4: ids
for _, id in ipairs(cjson.decode(ARGV[4])) do
  local j = load(id)
  if j and j.s == 'moving' then
    if j.k and cmd('HGET', B .. 'unique', j.k) == id then cmd('HDEL', B .. 'unique', j.k) end
    rem(S .. 'moving', id)
    cmd('DEL', J .. id, B .. 'b:' .. id)
  end
end
flush()
"""

STEERING: Final[dict[str, str]] = {
    "pause": _PAUSE,
    "limits": _LIMITS,
    "requeue": _REQUEUE,
    "export": _EXPORT,
    "restore": _RESTORE,
    "forget_moved": _FORGET_MOVED,
}
"""By verb: the text of its script, without what all begin with."""
