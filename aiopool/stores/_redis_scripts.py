"""The scripts of the Redis store: one for each verb, on top of what is in `_redis_lua`.

Rule 1: each may be sent again as it is: what was done already is answered, or left alone.

Rule 2: what comes in is one JSON text of rows (absent values are `false`), what goes out is one JSON text, put together
from texts that are JSON already: the arguments of a job are never read here.

Rule 3: a script does a bounded amount of work, and says if there is more of it.
"""

from __future__ import annotations

from typing import Final

from aiopool.stores._redis_lua import PRELUDE

__all__ = ["SCRIPTS"]

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

_SUBMIT = r"""
-- 4: rows, 5…: their texts
local rows, out = cjson.decode(ARGV[4]), {}
local pos = cmd('HINCRBY', B .. 'numbers', 'position', #rows) - #rows
local before = tonumber(cmd('ZRANGE', B .. 'due', 0, 0, 'WITHSCORES')[2])
local earliest, quiet = before or HUGE, nil
local function may_start()
  if quiet == nil then
    quiet = cmd('EXISTS', QUEUE, B .. 'paused') == 0 and not (before and before <= NOW)
      and cmd('HEXISTS', B .. 'members', ME) == 1
  end
  return quiet and not work
end
local count = 0
for i, v in ipairs(rows) do
  -- id, rank, delay, run_at, queue_timeout, total_timeout, max_crashes, unique, lanes, submitter, start, tick, name,
  -- group
  local id, unique, tick = v[1], v[8], v[12]
  local key = J .. id
  local known, other = cmd('HGET', key, 'y'), nil
  if known then
    out[i] = '["same_id",' .. text(id) .. ',' .. text(known) .. ']'
  elseif tick and v[12][2] <= tonumber(cmd('HGET', B .. 'ticks', tick[1]) or -HUGE) then
    out[i] = '["tick_over",' .. text(id) .. ',""]'
  else
    if unique then other = cmd('HGET', B .. 'unique', unique) end
    if other then
      out[i] = '["same_unique",' .. text(other) .. ',' .. text(cmd('HGET', J .. other, 'y') or '') .. ']'
    else
      if tick then cmd('HSET', B .. 'ticks', tick[1], fmt('%.17g', tick[2])) end
      if unique then cmd('HSET', B .. 'unique', unique, id) end
      pos = pos + 1
      local j = {id = id, r = v[2] .. fmt('%016.0f', pos), a = 0}
      local set = {'r', j.r, 't', STAMP, 'n', v[13], 'y', v[10], 'm', v[7]}
      local n, run_at = 10, v[4]
      if not run_at and v[3] > 0 then run_at = NOW + v[3] end
      if run_at then
        j.u = at(run_at)
        set[n + 1] = 'u'; set[n + 2] = j.u; n = n + 2
        if run_at > NOW and run_at < earliest then earliest = run_at; work = true end
      end
      if v[5] then
        j.q = at(math.max(run_at or NOW, NOW) + v[5])
        set[n + 1] = 'q'; set[n + 2] = j.q; set[n + 3] = 'Q'; set[n + 4] = at(v[5]); n = n + 4
      end
      if v[6] then j.e = at(NOW + v[6]); set[n + 1] = 'e'; set[n + 2] = j.e; n = n + 2 end
      if unique then set[n + 1] = 'k'; set[n + 2] = unique; n = n + 2 end
      if v[9] then set[n + 1] = 'l'; set[n + 2] = v[9]; n = n + 2 end
      if v[14] then set[n + 1] = 'g'; set[n + 2] = v[14]; n = n + 2 end
      cmd('SET', B .. 'b:' .. id, ARGV[4 + i])
      if v[11] and not v[9] and not (run_at and run_at > NOW) and may_start() then
        cmd('HSET', key, 's', 'running', 'a', 1, 'f', 1, 'o', ME, 'w', STAMP, unpack(set))
        add(S .. 'running', position(j.r), id)
        add(B .. 'own:' .. ME, 1, id)
        out[i] = '["running",' .. text(id) .. ',' .. text(v[10]) .. ']'
      else
        cmd('HSET', key, 's', wait(j), unpack(set))
        out[i] = '["queued",' .. text(id) .. ',' .. text(v[10]) .. ']'
      end
    end
  end
end
flush()
tell(ME)
return '[' .. table.concat(out, ',') .. ']'
"""

_CLAIM = r"""
-- 4: how many
local limit, out, more = tonumber(ARGV[4]), {}, 'false'
cmd('DEL', B .. 'void')
local cancels, ask = {}, cmd('HGETALL', B .. 'ask:' .. ME)
for i = 1, #ask, 2 do cancels[#cancels + 1] = '[' .. text(ask[i]) .. ',' .. ask[i + 1] .. ']' end
local paused = cmd('EXISTS', B .. 'paused') == 1
local moment
if not paused then
  local due = bring_due()
  work = false  -- whoever claims knows
  if cmd('HEXISTS', B .. 'members', ME) == 0 then limit = 0 end
  local steps = limit + STEP
  while #out < limit and steps > 0 do
    local passed = false  -- one that was called back did not come, and passes the call on: to a better one, maybe
    local members = cmd('ZRANGE', QUEUE, 0, math.min(limit - #out, steps) - 1)
    if #members == 0 then
      if not next(touched) then break end
      settle_lanes()
      members = cmd('ZRANGE', QUEUE, 0, math.min(limit - #out, steps) - 1)
      if #members == 0 then break end
    end
    local ids, lines, keys = {}, {}, {}
    for i, member in ipairs(members) do
      lines[i], ids[i] = cut(member)
      keys[i] = B .. 'b:' .. ids[i]
    end
    local blobs = cmd('MGET', unpack(keys))
    for i, id in ipairs(ids) do
      local v = cmd('HMGET', J .. id, 's', 'a', 'x', 'f', 't', 'l', 'q', 'e', 'h', 'k', 'y')
      local names = v[6] and cjson.decode(v[6])
      local j = {id = id, s = v[1], a = tonumber(v[2] or 0), f = tonumber(v[4] or 0), l = v[6], q = v[7], e = v[8],
        h = v[9], k = v[10], y = v[11], r = lines[i]}
      local full
      steps = steps - 1
      if j.s ~= 'queued' or not blobs[i] then  -- its row is gone: somebody evicted it
        rem(QUEUE, members[i]); rem(S .. 'queued', id)
      elseif (j.q or j.e) and time_over(j) then
        passed = j.h
      else
        if names then
          for _, name in ipairs(names) do
            if places(lane(name)) < 1 then full = name; break end
          end
        end
        rem(QUEUE, members[i]); rem(S .. 'queued', id)
        if j.h then drop_call(j) end
        if full then
          passed = j.h
          cmd('HSET', J .. id, 's', 'limited', 'h', full)
          add(B .. 'held:' .. full, 0, members[i])
          add(B .. 'held', 0, full)
          add(S .. 'limited', position(j.r), id)
          touched[full] = true
        else
          if names then occupy(j, names) end
          if j.q or j.e then rem(B .. 'late', id) end
          cmd('HSET', J .. id, 's', 'running', 'a', j.a + 1, 'f', j.f + 1, 'o', ME, 'w', STAMP)
          if j.a > 0 then cmd('HDEL', J .. id, 'P') end
          add(S .. 'running', position(j.r), id)
          add(B .. 'own:' .. ME, j.f + 1, id)
          out[#out + 1] = '[' .. blobs[i] .. ',' .. (j.a + 1) .. ',' .. (v[3] or 0) .. ',' .. (j.f + 1) .. ','
            .. at(NOW - v[5]) .. ',' .. (j.e and at(j.e - NOW) or 'null') .. ']'
        end
      end
      if passed then break end
    end
    if passed then settle_lanes() else flush() end
  end
  settle_lanes()
  moment = next_moment()
  if due or cmd('EXISTS', QUEUE) == 1 then more = 'true' end
end
tell(ME)
return '[[' .. table.concat(out, ',') .. '],[' .. table.concat(cancels, ',') .. '],'
  .. (moment and at(math.max(0, moment - NOW)) or 'null') .. ',' .. more .. ',' .. (paused and 'true' or 'false') .. ']'
"""

_SETTLE = r"""
-- 4: rows
local out = {}
cmd('DEL', B .. 'void')
for i, v in ipairs(cjson.decode(ARGV[4])) do
  -- id, fence, outcome, delay, result, error, reason
  local h, outcome = cmd('HMGET', J .. v[1], 's', 'f', 'o', 'w', 'k', 'l', 'c', 'y'), v[3]
  if h[1] ~= 'running' or tonumber(h[2]) ~= v[2] then
    out[i] = '0'
  else
    out[i] = '1'
    local j
    if ENDED[outcome] and not h[7] then  -- nearly all of them: the rest of the row is not needed
      j = {id = v[1], s = h[1], f = v[2], o = h[3], w = h[4], k = h[5], l = h[6], y = h[8]}
    else
      j = load(v[1])
      if j.c and not ENDED[outcome] then outcome = 'cancelled' end
    end
    if ENDED[outcome] then
      finish(j, outcome, v[5], v[6], v[7] or (outcome == 'cancelled' and j.R), ME)
    else
      local set = {}
      if v[6] then set = {'E', v[6]} end
      if outcome == 'retry' then
        if v[4] > 0 then
          j.u = at(NOW + v[4])
          set[#set + 1] = 'u'; set[#set + 1] = j.u
        end
      else
        j.a = j.a - 1
        set[#set + 1] = 'a'; set[#set + 1] = j.a
      end
      back(j, outcome, set)
    end
  end
end
settle_lanes()
tell(ME)
if ARGV[3] == '1' then cmd('HINCRBY', B .. 'numbers', 'syncs', 1) end
return table.concat(out)
"""

_CANCEL = r"""
-- 4: ids, 5: the reason as JSON, or 'null'
local out, reason = {}, ARGV[5] ~= 'null' and cjson.decode('[' .. ARGV[5] .. ']')[1]
cmd('DEL', B .. 'void')
for i, id in ipairs(cjson.decode(ARGV[4])) do
  local j = load(id)
  if not j or j.s == 'moving' then out[i] = 'unknown'
  elseif ENDED[j.s] then out[i] = 'ended'
  elseif j.s == 'running' then
    out[i] = 'running'
    if not j.c then
      cmd('HSET', J .. id, 'c', '1')
      if reason then cmd('HSET', J .. id, 'R', reason) end
      cmd('HSET', B .. 'ask:' .. j.o, id, j.f .. ',' .. ARGV[5])
    end
    asked[j.o] = true
  else
    out[i] = 'queued'
    finish(j, 'cancelled', nil, nil, reason, ME)
  end
end
settle_lanes()
tell('')
return out
"""

_PROGRESS = r"""
-- 4: rows of id, fence, JSON
cmd('DEL', B .. 'void')
for _, v in ipairs(cjson.decode(ARGV[4])) do
  local known = cmd('HMGET', J .. v[1], 's', 'f')
  if known[1] == 'running' and tonumber(known[2]) == v[2] then cmd('HSET', J .. v[1], 'P', v[3]) end
end
"""

_PURGE = r"""
local function purge(s, until_, most)
  local ids = cmd('ZRANGE', S .. s, 0, most - 1)
  local gone, keys = {}, {}
  for _, id in ipairs(ids) do
    local z = cmd('HGET', J .. id, 'z')
    if z and tonumber(z) > until_ then break end
    gone[#gone + 1] = id
    keys[#keys + 1] = J .. id
    keys[#keys + 1] = B .. 'b:' .. id
  end
  if #gone > 0 then
    cmd('ZREM', S .. s, unpack(gone))
    cmd('DEL', unpack(keys))
  end
  return #gone
end
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
for _, id in ipairs(cmd('ZRANGEBYSCORE', B .. 'late', '-inf', STAMP, 'LIMIT', 0, STEP)) do
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
        cmd('HSET', J .. id, 's', wait(j))
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
for s in pairs(ENDED) do purged = purged + purge(s, NOW - ARGV[s == 'succeeded' and 5 or 6], STEP) end
local lane_names = cmd('ZCARD', B .. 'held')
if lane_names > 0 then  -- a few of the lanes that hold somebody, in case a call got lost
  local from = floor(NOW * 10) % lane_names
  for _, name in ipairs(cmd('ZRANGE', B .. 'held', from, from + 9)) do call(name) end
end
if bring_due() then more = true end
tell('')
if math.max(rescued, late, unparked, purged) >= STEP then more = true end
return {rescued, dead, late, purged, unparked, more and 1 or 0}
"""
)

_FORGET = (
    _PURGE
    + r"""
-- 4: seconds
local n, more = 0, 0
for s in pairs(ENDED) do
  local gone = purge(s, NOW - ARGV[4], STEP)
  if gone == STEP then more = 1 end
  n = n + gone
end
return {n, more}
"""
)

_OWNED = "return cmd('ZRANGE', B .. 'own:' .. ME, 0, -1, 'WITHSCORES')"

_FINISHED = r"""
-- 4: ids
local out = {}
for _, id in ipairs(cjson.decode(ARGV[4])) do
  local v = cmd('HMGET', J .. id, 's', 'S', 'E', 'R', 'a', 't', 'w', 'v', 'z')
  if v[1] and ENDED[v[1]] then
    out[#out + 1] = '[' .. text(id) .. ',' .. text(v[1]) .. ',' .. text(v[2]) .. ',' .. text(v[3]) .. ',' .. text(v[4])
      .. ',' .. (v[5] or 0) .. ',' .. at((v[7] or v[9]) - v[6]) .. ',' .. (v[8] or 0) .. ',' .. v[9] .. ']'
  end
end
return '[' .. table.concat(out, ',') .. ']'
"""

_FIND = r"""
-- 4: ids
local out = {}
for _, id in ipairs(cjson.decode(ARGV[4])) do out[#out + 1] = row(id) end
return '[' .. table.concat(out, ',') .. ']'
"""

_PAGE = r"""
-- 4: statuses, 5: name, 6: group (each with a sign before it, or empty), 7: how many, 8: cursor. A cursor is a score
-- and an id: rows of other stores may have one position.
local statuses, name, group, most = cjson.decode(ARGV[4]), ARGV[5], ARGV[6], tonumber(ARGV[7])
local score, last_id = ARGV[8]:match('^(%-?%d+):(.*)$')
local heads = {}
for _, s in ipairs(statuses) do
  local key, start = S .. s, 0
  if score then
    start = cmd('ZCOUNT', key, '(' .. score, '+inf')
    local same = cmd('ZCOUNT', key, score, score)
    if same > 0 then
      for _, id in ipairs(cmd('ZREVRANGE', key, start, start + same - 1)) do
        if id >= last_id then start = start + 1 end
      end
    end
  end
  heads[#heads + 1] = {key = key, start = start, rows = cmd('ZREVRANGE', key, start, start + 99, 'WITHSCORES'), i = 1}
end
local out, cursor, steps = {}, false, 2000
while #out < most and steps > 0 do
  local best
  for _, h in ipairs(heads) do
    if h.i > #h.rows and #h.rows == 200 then
      h.start = h.start + 100
      h.rows, h.i = cmd('ZREVRANGE', h.key, h.start, h.start + 99, 'WITHSCORES'), 1
    end
    h.id, h.score = h.rows[h.i], tonumber(h.rows[h.i + 1])
    if h.id and (not best or h.score > best.score or (h.score == best.score and h.id > best.id)) then best = h end
  end
  if not best then cursor = false; break end
  best.i = best.i + 2
  steps = steps - 1
  cursor = fmt('%.0f', best.score) .. ':' .. best.id
  local fit = true
  if name ~= '' or group ~= '' then
    local v = cmd('HMGET', J .. best.id, 'n', 'g')
    fit = (name == '' or '=' .. (v[1] or '') == name) and (group == '' or (v[2] and '=' .. v[2] == group))
  end
  if fit then out[#out + 1] = row(best.id) end
end
if cursor then
  local any = false
  for _, h in ipairs(heads) do
    if h.rows[h.i] or (#h.rows == 200 and cmd('ZREVRANGE', h.key, h.start + 100, h.start + 100)[1]) then any = true end
  end
  if not any then cursor = false end
end
return '[[' .. table.concat(out, ',') .. '],' .. text(cursor) .. ']'
"""

_STATISTICS = r"""
local counts, members = {}, {}
for _, s in ipairs({'scheduled', 'queued', 'limited', 'parked', 'moving', 'running', 'succeeded', 'failed', 'timed_out',
  'cancelled', 'dead'}) do counts[#counts + 1] = '"' .. s .. '":' .. cmd('ZCARD', S .. s) end
local first, oldest = cmd('ZRANGE', S .. 'queued', 0, 0)[1], 'null'
if first then
  local t = cmd('HGET', J .. first, 't')
  if t then oldest = at(math.max(0, NOW - t)) end
end
local all = cmd('HGETALL', B .. 'members')
for i = 1, #all, 2 do
  members[#members + 1] = '[' .. text(all[i]) .. ',' .. all[i + 1] .. ','
    .. (cmd('ZSCORE', B .. 'leases', all[i]) or 0) .. ',' .. cmd('ZCARD', B .. 'own:' .. all[i]) .. ']'
end
return '[{' .. table.concat(counts, ',') .. '},' .. oldest .. ',[' .. table.concat(members, ',') .. '],'
  .. (cmd('HGET', B .. 'numbers', 'rescued') or 0) .. ',' .. cmd('EXISTS', B .. 'paused') .. ']'
"""

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
for _, id in ipairs(ids) do
  local j = load(id)
  if j and ENDED[j.s] and (ARGV[5] == '' or j.s == ARGV[5])
    and not (j.k and cmd('HEXISTS', B .. 'unique', j.k) == 1) then
    local key, set = J .. id, {'a', 0, 'x', 0, 't', STAMP}
    local t, patience = tonumber(cmd('HGET', key, 't')), cmd('HGET', key, 'Q')
    local line = j.r:sub(1, -17) .. fmt('%016.0f', cmd('HINCRBY', B .. 'numbers', 'position', 1))
    local queued_at = math.max(tonumber(j.u) or t, t)
    rem(S .. j.s, id)
    if j.k then cmd('HSET', B .. 'unique', j.k, id) end
    if j.q then
      j.q = at(patience and NOW + patience or j.q + NOW - queued_at)
      set[#set + 1] = 'q'; set[#set + 1] = j.q
    end
    if j.e then j.e = at(j.e + NOW - t); set[#set + 1] = 'e'; set[#set + 1] = j.e end
    j.r, j.u, j.a = line, nil, 0
    set[#set + 1] = 'r'; set[#set + 1] = line
    cmd('HDEL', key, 'u', 'w', 'z', 'v', 'S', 'E', 'R', 'P', 'o', 'c', 'h')
    cmd('HSET', key, 's', wait(j), unpack(set))
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
local most, ids, out = math.min(tonumber(ARGV[4]), STEP), nil, {}
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
for _, id in ipairs(ids) do
  local j = load(id)
  if j then
    if j.s ~= 'moving' then
      leave(j)
      cmd('HSET', J .. id, 's', 'moving')
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
-- 4: rows of id, line, status, unique, pairs of fields; 5…: their texts
for i, v in ipairs(cjson.decode(ARGV[4])) do
  local id, line, set = v[1], v[2], v[5]
  local now_at = tonumber(cmd('HGET', B .. 'numbers', 'position') or 0)
  local pos = tonumber(position(line))
  if pos > now_at then cmd('HINCRBY', B .. 'numbers', 'position', pos - now_at) end
  if cmd('EXISTS', J .. id) == 0 then
    cmd('SET', B .. 'b:' .. id, ARGV[4 + i])
    set[#set + 1] = 'r'; set[#set + 1] = line
    -- Two that were accepted elsewhere are two jobs.
    if v[4] and cmd('HSETNX', B .. 'unique', v[4], id) == 1 then set[#set + 1] = 'k'; set[#set + 1] = v[4] end
    local j = {id = id}
    for k = 1, #set, 2 do j[set[k]] = set[k + 1] end
    j.a = tonumber(j.a)
    set[#set + 1] = 's'; set[#set + 1] = (v[3] == 'parked' and park or wait)(j)
    cmd('HSET', J .. id, unpack(set))
  end
end
flush()
work = true
tell('')
"""

_FORGET_MOVED = r"""
-- 4: ids
for _, id in ipairs(cjson.decode(ARGV[4])) do
  local v = cmd('HMGET', J .. id, 's', 'k')
  if v[1] == 'moving' then
    if v[2] and cmd('HGET', B .. 'unique', v[2]) == id then cmd('HDEL', B .. 'unique', v[2]) end
    rem(S .. 'moving', id)
    cmd('DEL', J .. id, B .. 'b:' .. id)
  end
end
flush()
"""

SCRIPTS: Final[dict[str, str]] = {
    verb: PRELUDE + body
    for verb, body in {
        "open": _OPEN,
        "beat": _BEAT,
        "close": _CLOSE,
        "submit": _SUBMIT,
        "claim": _CLAIM,
        "settle": _SETTLE,
        "cancel": _CANCEL,
        "progress": _PROGRESS,
        "sweep": _SWEEP,
        "forget_history": _FORGET,
        "owned": _OWNED,
        "finished": _FINISHED,
        "find": _FIND,
        "page": _PAGE,
        "statistics": _STATISTICS,
        "pause": _PAUSE,
        "limits": _LIMITS,
        "requeue": _REQUEUE,
        "export": _EXPORT,
        "restore": _RESTORE,
        "forget_moved": _FORGET_MOVED,
    }.items()
}
"""By verb: the text of its script."""
