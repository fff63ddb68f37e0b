-- From Sphinx's one page (builder `singlehtml`, theme `basic`) to Typst: a pandoc filter.
-- Numbers and references are Sphinx's, so site and PDF agree; Typst draws, breaks pages, makes
-- bookmarks. What is folded on the site is left out.

local page = "index" -- the document that the reading is in: ids are unique in it only
local listed = false -- whether the table of contents has its place
local titles = {} -- id of the title of each document

local function typst(text)
  return pandoc.RawBlock("typst", text)
end

local function quoted(text)
  return '"' .. text:gsub("\\", "\\\\"):gsub('"', '\\"') .. '"'
end

local function label(id)
  return page .. "-" .. id
end

local function has(element, class)
  return element.classes:includes(class)
end

-- The blocks as Typst's own text.
local function written(blocks)
  return pandoc.write(pandoc.Pandoc(blocks), "typst")
end

local WIDE = 7 -- columns; a table of more is set smaller

-- Columns of numbers stand to the right, with a minus for a hyphen; short names of rows keep to
-- one line.
local function set_table(table)
  local body = table.bodies[1].body
  for _, row in ipairs(body) do
    local name = row.cells[1]
    if #pandoc.utils.stringify(name.contents) < 15 then
      name.contents = name.contents:walk({
        Space = function()
          return pandoc.Str("\u{a0}")
        end,
      })
    end
  end
  for column = 1, #table.colspecs do
    local numbers, texts = pandoc.List({}), 0
    for _, row in ipairs(body) do
      local cell = row.cells[#row.cells - #table.colspecs + column]
      local text = cell and pandoc.utils.stringify(cell.contents) or ""
      text = text:gsub(" better$", ""):gsub(" worse$", "")
      if text == "within noise" or text:match("^[<+-]?%d[%d,]*%.?%d*%s?[°†]*$") then
        numbers:insert(cell)
      elseif text ~= "" then
        texts = texts + 1
      end
    end
    local right = #numbers > 0 and texts == 0
    table.colspecs[column] = { right and "AlignRight" or "AlignLeft", nil }
    for _, cell in ipairs(right and numbers or {}) do
      cell.contents = cell.contents:walk({
        Str = function(str)
          return pandoc.Str((str.text:gsub("^-", "−")))
        end,
      })
    end
  end
  if #table.colspecs > WIDE then
    return { typst("#small-table["), table, typst("]") }
  end
  return table
end

local function document_of(span)
  return span.identifier:match("^document%-(.*)")
end

local readers = { traverse = "topdown" }

function readers.Span(span)
  page = document_of(span)
  return {}
end

function readers.Link(link)
  local document, id = link.target:match("^#document%-([^#]*)#?(.*)")
  if document then
    link.target = "#" .. document .. "-" .. (id == "" and titles[document] or id)
  elseif link.target:match("^#") then
    link.target = "#" .. label(link.target:sub(2))
  end
  link.title = ""
  return link
end

function readers.Code(code)
  code.classes = {}
  return code
end

function readers.Image(image)
  local alt = quoted(pandoc.utils.stringify(image.caption))
  return pandoc.RawInline("typst", "#fitted(" .. quoted(image.src) .. ", " .. alt .. ")")
end

function readers.Header(header)
  header.level = header.level - 1
  header.identifier = label(header.identifier)
  header.classes = {}
  return header
end

function readers.Figure(figure)
  local id = figure.identifier
  local caption = figure.caption.long:filter(function(block)
    return block.t == "Para" or block.t == "Plain"
  end)
  local vector = io.open(id .. ".pdf")
  local inside
  figure:walk({
    Table = function(found)
      inside = found
    end,
    Image = function(found)
      inside = inside or found
    end,
  })
  figure.identifier = label(id)
  if inside.t == "Table" then
    inside.caption.long = caption
    inside.attr = pandoc.Attr(label(id))
    return set_table(inside)
  end
  if vector then
    vector:close()
    inside.src = id .. ".pdf"
  end
  figure.caption.long = caption
  figure.content = { pandoc.Plain({ inside }) }
  return figure
end

readers.Table = set_table

function readers.CodeBlock(code)
  code.classes = { "python" }
  return code
end

local function equation(div)
  local number, formula = "", nil
  div:walk({
    Span = function(span)
      if has(span, "eqno") then
        number = pandoc.utils.stringify(span.content)
      end
    end,
    Math = function(math)
      formula = written({ pandoc.Para({ math }) })
    end,
  })
  local name = div.identifier ~= "" and "<" .. label(div.identifier) .. ">" or ""
  local numbering = number ~= "" and "_ => " .. quoted(number) or "none"
  return typst("#[#set math.equation(numbering: " .. numbering .. ")\n" .. formula .. name .. "]")
end

local function reference(div)
  local content = pandoc.List({})
  for _, block in ipairs(div.content) do
    content:extend(block.content)
    content:insert(pandoc.Space())
  end
  return {
    typst("#reference["),
    pandoc.Plain(content),
    typst("] <" .. label(div.identifier) .. ">"),
  }
end

function readers.Div(div)
  return has(div, "math") and equation(div) or reference(div)
end

-- First: without what is folded on the site, and without Sphinx's links from titles to themselves.
local bare = {
  Div = function(div)
    if has(div, "tag_hide-input") then
      div.content = div.content:filter(function(block)
        return block.t == "Div" and has(block, "cell_output")
      end)
    end
    return div
  end,
  Link = function(link)
    return has(link, "headerlink") and {} or link
  end,
}

-- Then: without Sphinx's boxes, but for those that have a number or a name.
local unboxed = {
  Div = function(div)
    if has(div, "math") or has(div, "citation") then
      return div
    end
    if has(div, "toctree-wrapper") and not listed then
      listed = true
      div.content:insert(1, typst("#contents"))
    end
    if has(div, "section") then
      div.content[1].identifier = div.identifier
    end
    return div.content
  end,
  Span = function(span)
    if has(span, "caption-number") then
      return pandoc.Strong(span.content)
    end
    local colour = (span.attributes.style or ""):match("^color: (#%x+)$")
    if colour then
      local opened = pandoc.RawInline("typst", "#text(fill: rgb(" .. quoted(colour) .. "))[")
      span.content:insert(1, opened)
      span.content:insert(pandoc.RawInline("typst", "]"))
    end
    return (has(span, "eqno") or document_of(span)) and span or span.content
  end,
}

function Pandoc(document)
  local body
  document:walk({
    Div = function(div)
      if has(div, "body") then
        body = div.content
      end
    end,
  })
  body = body:walk(bare):walk(unboxed)
  for place, block in ipairs(body) do
    local first = block.content and block.content[1]
    local name = pandoc.utils.type(first) == "Inline" and first.t == "Span" and document_of(first)
    if name then
      titles[name] = body[place + 1].identifier
    end
  end
  document.meta.title = body:remove(1).content
  return pandoc.Pandoc(body:walk(readers), document.meta)
end
