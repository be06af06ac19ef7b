"""The scripts of the Redis store for the way of a job: submit, claim, settle, cancel, and how far it is.

Rule 1: each may be sent again as it is: what was done already is answered, or left alone.

Rule 2: a batch comes as one flat list in JSON: what is usual of each row, and before it, for all, what is not, as an
object by the index of the row (absent values are `false`). What may be long, arguments and results, comes beside it
and is never read here.

Rule 3: a claim does a bounded amount of work, and says if there is more of it.
"""

from __future__ import annotations

from typing import Final

__all__ = ["WAY"]

_SUBMIT = r"""
-- 4: a submitter, what is not usual of some rows by index, and for each row: id, rank and name; 5…: their texts
local out, others, rows, count = {}, {}, cjson.decode(ARGV[4]), #ARGV - 4
local submitter, odd = rows[1], rows[2]
local pos = cmd('HINCRBY', B .. 'numbers', 'position', count) - count
local before = tonumber(cmd('ZRANGE', B .. 'due', 0, 0, 'WITHSCORES')[2])
local earliest, quiet = before or HUGE, nil
local function may_start()
  if quiet == nil then
    quiet = cmd('EXISTS', QUEUE, B .. 'paused') == 0 and not (before and before <= NOW)
      and cmd('HEXISTS', B .. 'members', ME) == 1
  end
  return quiet and not work
end
local function refuse(i, letter, id, submitter)
  out[i] = letter
  others[#others + 1] = '[' .. text(id) .. ',' .. text(submitter) .. ']'
end
local ids, keys, known = {}, {}, 0
for i = 1, count do
  ids[i] = rows[2 * i + 1]
  keys[i] = J .. ids[i]
end
for i = 1, count, 2000 do known = known + cmd('EXISTS', unpack(keys, i, min(i + 1999, count))) end
if known > 0 then fetch(ids) end
local QUEUED, set, n = S .. 'queued', texts, 0
local USUAL, FIRST, SECOND = {y = submitter}, pack('queued'), pack(0, 0, 0, NOW, submitter)
for i = 1, count do
  local id, head, v = ids[i], rows[2 * i + 2], odd and odd[tostring(i - 1)]
  local same = jobs[id]
  local unique, tick = v and v[5], v and v[8]
  local other = not same and unique and cmd('HGET', B .. 'unique', unique)
  if same then
    refuse(i, 'i', id, same.y)
  elseif tick and tick[2] <= tonumber(cmd('HGET', B .. 'ticks', tick[1]) or -HUGE) then
    refuse(i, 't', id, '')
  elseif other then
    local owner = load(other)
    refuse(i, 'u', other, owner and owner.y or '')
  else
    pos = pos + 1
    local rank, name = cut_rank(head)
    local place = fmt('%016d', pos)
    local line = rank .. place
    set[n + 1] = B .. 'b:' .. id
    set[n + 2] = ARGV[4 + i]
    n = n + 2
    out[i] = 'q'
    if not v then
      jobs[id] = USUAL
      set[n + 1] = J .. id
      set[n + 2] = FIRST .. pack(line) .. SECOND .. pack(name, 3)  -- as `packed` would write it
      n = n + 2
      add(QUEUE, '0', line .. id)
      add(QUEUED, place, id)
      work = true
    else
      local j = {id = id, r = line, a = 0, x = 0, f = 0, t = NOW, y = v[11], n = name, m = v[10]}
      jobs[id] = j
      -- delay, run_at, queue_timeout, total_timeout, unique, lanes, start, tick, group, max_crashes, submitter
      if tick then cmd('HSET', B .. 'ticks', tick[1], fmt('%.17g', tick[2])) end
      if unique then cmd('HSET', B .. 'unique', unique, id) end
      j.k, j.l, j.g = unique or nil, v[6] or nil, v[9] or nil
      local run_at = v[2]
      if not run_at and v[1] > 0 then run_at = NOW + v[1] end
      if run_at then
        j.u = run_at
        if run_at > NOW and run_at < earliest then earliest = run_at; work = true end
      end
      if v[3] then
        j.Q = v[3]
        j.q = max(run_at or NOW, NOW) + v[3]
      end
      if v[4] then j.e = NOW + v[4] end
      if v[7] and not j.l and not (run_at and run_at > NOW) and may_start() then
        j.s, j.a, j.f, j.o, j.w = 'running', 1, 1, ME, NOW
        save(j)
        add(B .. 'own:' .. ME, place, id)
        out[i] = 'r'
      else
        wait(j)
      end
    end
  end
end
flush()
tell(ME)
return {table.concat(out), '[' .. table.concat(others, ',') .. ']'}
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
  local OWN, QUEUED = B .. 'own:' .. ME, S .. 'queued'
  local steps = limit + STEP
  while #out < limit and steps > 0 do
    local passed = false  -- one that was called back did not come, and passes the call on: to a better one, maybe
    local members = cmd('ZPOPMIN', QUEUE, min(limit - #out, steps))
    if #members == 0 then
      if not next(touched) then break end
      settle_lanes()
      members = cmd('ZPOPMIN', QUEUE, min(limit - #out, steps))
      if #members == 0 then break end
    end
    local ids, keys, count = {}, {}, #members / 2
    for i = 1, count do
      local _, id = cut(members[2 * i - 1])
      ids[i] = id
      keys[i] = B .. 'b:' .. id
    end
    fetch(ids)
    local blobs = cmd('MGET', unpack(keys))
    for i = 1, count do
      local id, member = ids[i], members[2 * i - 1]
      local j = load(id)
      steps = steps - 1
      if not j or j.s ~= 'queued' or not blobs[i] then  -- its row is gone: somebody evicted it
        rem(QUEUED, id)
      else
        local called, full = j.h, nil
        if (j.q or j.e) and time_over(j) then
          passed = called
        else
          local names = j.l and cjson.decode(j.l)
          if names then
            for _, name in ipairs(names) do
              if places(lane(name)) < 1 then full = name; break end
            end
          end
          rem(QUEUED, id)
          if called then drop_call(j) end
          if full then
            passed = called
            j.s, j.h = 'limited', full
            add(B .. 'held:' .. full, '0', member)
            add(B .. 'held', '0', full)
            add(S .. 'limited', position(j.r), id)
            touched[full] = true
          else
            if names then occupy(j, names) end
            if j.q or j.e then rem(B .. 'late', id) end
            j.s, j.a, j.f, j.o, j.w, j.P = 'running', j.a + 1, j.f + 1, ME, NOW, nil
            add(OWN, position(j.r), id)
            out[#out + 1] = fmt('[%s,%d,%d,%d,%.6f,%s]', blobs[i], j.a, j.x, j.f, NOW - j.t,
              j.e and at(j.e - NOW) or 'null')
          end
          save(j)
        end
      end
      if passed then
        for k = i + 1, count do add(QUEUE, '0', members[2 * k - 1]) end
        break
      end
    end
    if passed then settle_lanes() else flush() end
  end
  settle_lanes()
  moment = next_moment()
  if due or cmd('EXISTS', QUEUE) == 1 then more = 'true' end
end
tell(ME)
return '[[' .. table.concat(out, ',') .. '],[' .. table.concat(cancels, ',') .. '],'
  .. (moment and at(max(0, moment - NOW)) or 'null') .. ',' .. more .. ',' .. (paused and 'true' or 'false') .. ']'
"""

_SETTLE = r"""
-- 4: whether an answer was lost, so that some of it may be done; what is not usual of some rows by index; and for each
-- row: id, fence; 5…: their results. Usual is an end that succeeded, with a result.
local out, ids, rows = {}, {}, cjson.decode(ARGV[4])
local again, odd = rows[1], rows[2]
cmd('DEL', B .. 'void')
for i = 3, #rows, 2 do ids[#ids + 1] = rows[i] end
fetch(ids)
for i, id in ipairs(ids) do
  local j, fence, result, v = load(id), rows[2 * i + 2], ARGV[4 + i], odd and odd[tostring(i - 1)]
  if not j or j.s ~= 'running' or j.f ~= fence then
    out[i] = again and j and j.d == fence and '1' or '0'
  else
    out[i] = '1'
    j.d = fence
    if not v then
      finish(j, 'succeeded', result, nil, nil, ME)
    else
      -- outcome, delay, result, error, reason
      local outcome = v[1]
      if j.c and not ENDED[outcome] then outcome = 'cancelled' end
      if ENDED[outcome] then
        finish(j, outcome, v[3], v[4], v[5] or (outcome == 'cancelled' and j.R), ME)
      else
        stop(j)
        if v[4] then j.E = v[4] end
        if outcome ~= 'retry' then j.a = j.a - 1 elseif v[2] > 0 then j.u = NOW + v[2] end
        if outcome == 'park' then park(j) else wait(j) end
      end
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
local ids = cjson.decode(ARGV[4])
fetch(ids)
for i, id in ipairs(ids) do
  local j = load(id)
  if not j or j.s == 'moving' then out[i] = 'unknown'
  elseif ENDED[j.s] then out[i] = 'ended'
  elseif j.s == 'running' then
    out[i] = 'running'
    if not j.c then
      j.c = true
      if reason then j.R = reason end
      save(j)
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
  local j = load(v[1])
  if j and j.s == 'running' and j.f == v[2] then j.P = v[3]; save(j) end
end
flush()
"""

WAY: Final[dict[str, str]] = {
    "submit": _SUBMIT,
    "claim": _CLAIM,
    "settle": _SETTLE,
    "cancel": _CANCEL,
    "progress": _PROGRESS,
}
"""By verb: the text of its script, without what all begin with."""
