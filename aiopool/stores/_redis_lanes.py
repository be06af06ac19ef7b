"""The limits of the fleet, in the scripts of the Redis store: places, rates, and who is called for a free place.

Rule 1: a row moves few times: to the lane that has no place for it, and back when it is called. Nobody looks through
those that are held.

Rule 2: a place is counted by the job that has it (`run:<lane>`), so one that is given back twice is given back once.

Rule 3: lanes are read once for each script, and called (`settle_lanes`) at its end.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LANES"]

LANES: Final = r"""
-- Lanes.
local lanes, touched = {}, {}
local function lane(name)
  local L = lanes[name]
  if L then return L end
  L = {name = name}
  lanes[name] = L
  local limit = cmd('HGET', B .. 'limits', name:match('^([^\31]*)'))
  if limit then
    limit = cjson.decode(limit)
    L.max, L.rate, L.burst = limit[1], limit[2], limit[3]
  end
  if L.max then L.running = cmd('SCARD', B .. 'run:' .. name) end
  L.calls = B .. 'call:' .. name
  L.called = cmd('ZCARD', L.calls)
  if L.rate then
    L.size = max(math.ceil(L.rate), L.burst)
    L.window, L.slack = L.size / L.rate, (L.burst - 1) / L.rate
    -- A clock that was set back holds nobody for longer than a whole burst takes.
    L.tat = min(tonumber(cmd('GET', B .. 'tat:' .. name) or 0), NOW + (L.size + 1) / L.rate)
    L.recent = 0
    if L.burst > 1 then
      L.starts = B .. 'win:' .. name
      cmd('ZREMRANGEBYSCORE', L.starts, '-inf', at(NOW - L.window + ROUNDING))
      cmd('ZREMRANGEBYSCORE', L.starts, at(NOW + ROUNDING), '+inf')
      L.recent = cmd('ZCARD', L.starts)
    end
  end
  return L
end
local function places(L)
  local free = HUGE
  if L.max then free = L.max - L.running end
  if L.rate then
    local starts = 0
    if L.tat <= NOW then
      starts = L.burst
    elseif L.tat - L.slack <= NOW + ROUNDING then
      starts = floor((NOW + ROUNDING + L.slack - L.tat) * L.rate) + 1
    end
    free = min(free, starts, L.size - L.recent)
  end
  return free
end
local function opening(L)
  local moment = L.tat - L.slack
  if L.recent >= L.size then
    local oldest = cmd('ZRANGE', L.starts, -L.size, -L.size, 'WITHSCORES')
    if oldest[2] then moment = max(moment, oldest[2] + L.window) end
  end
  return moment
end
local function occupy(j, names)
  for _, name in ipairs(names) do
    local L = lane(name)
    cmd('SADD', B .. 'run:' .. name, j.id)
    if L.running then L.running = L.running + 1 end
    if L.rate then
      L.tat = max(L.tat, NOW) + 1 / L.rate
      cmd('SET', B .. 'tat:' .. name, at(L.tat), 'PX', floor((L.tat - NOW) * 1000) + 1000)
      if L.starts then
        L.recent = L.recent + 1
        cmd('ZADD', L.starts, STAMP, j.id .. '\31' .. (j.f + 1))
        cmd('PEXPIRE', L.starts, floor(L.window * 1000) + 1000)
      end
    end
  end
end
local function vacate(id, names)
  for _, name in ipairs(cjson.decode(names)) do
    if cmd('SREM', B .. 'run:' .. name, id) == 1 then
      local L = lanes[name]
      if L and L.running then L.running = L.running - 1 end
      touched[name] = true
    end
  end
end
local function drop_call(j)  -- it was called back to a lane, and comes, or will never come
  local name = j.h
  if not name then return end
  j.h = nil
  save(j)
  if cmd('ZREM', B .. 'call:' .. name, j.r .. j.id) == 1 then
    local L = lanes[name]
    if L then L.called = L.called - 1 end
    touched[name] = true
  end
end
-- Calls back as many of the held as there are places, besides those that were called before and are better: one that
-- was called while a better one was elsewhere does not stand in the way of that one.
local function call(name)
  local L, held = lane(name), B .. 'held:' .. name
  local free, before, n = places(L), L.called, 0
  if free > 0 then
    local members, ids = cmd('ZRANGE', held, 0, min(free, STEP) - 1), {}
    for i, member in ipairs(members) do
      local _, id = cut(member)
      ids[i] = id
    end
    fetch(ids)
    for _, member in ipairs(members) do
      local ahead = before > 0 and cmd('ZLEXCOUNT', L.calls, '-', '(' .. member) or n
      if ahead >= free then break end
      local line, id = cut(member)
      local j = load(id)
      if j then j.s = 'queued'; save(j) end
      cmd('ZADD', L.calls, 0, member)
      n = n + 1
      rem(held, member); rem(S .. 'limited', id)
      add(QUEUE, '0', member); add(S .. 'queued', position(line), id)
      work = true
    end
    L.called = before + n
    flush()
  end
  if cmd('EXISTS', held) == 0 then
    cmd('ZREM', B .. 'held', name)
    cmd('ZREM', B .. 'opens', name)
    return
  end
  local moment = n == STEP and NOW or L.rate and opening(L)
  if moment and (n == STEP or moment > NOW + ROUNDING) then
    cmd('ZADD', B .. 'opens', at(moment), name)
  else
    cmd('ZREM', B .. 'opens', name)
  end
end
local function settle_lanes()
  flush()
  for name in pairs(touched) do call(name) end
  touched = {}
end
"""
