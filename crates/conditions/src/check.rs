//! Takes an expression apart before it is ever evaluated: how large it is, how loops nest, which names and functions it
//! uses. What is refused here needs no bound later.

use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, IdedExpr, SourceInfo};
use cel::parser::Parser;
use outrigger_config::Position;
use outrigger_policy::condition::{ConditionMistake, Reads};

/// Longest condition, in bytes: a screen full.
pub const MAX_SOURCE_BYTES: usize = 4096;
/// Most parts of one condition, macros written out.
pub const MAX_NODES: usize = 500;
/// How deep `all`, `exists` and `exists_one` may stand inside each other.
pub const MAX_LOOP_DEPTH: usize = 2;
/// How deep brackets may stand inside each other; the parser recurses.
const MAX_BRACKETS: usize = 32;

/// What conditions may name.
const NAMES: [&str; 7] = ["annotations", "arguments", "capability", "principal", "service", "source", "time"];

/// What conditions may call: operators, and functions whose cost grows no faster than what they are given.
const FUNCTIONS: [&str; 48] = [
    "_?_:_",
    "_&&_",
    "_||_",
    "!_",
    "_-_",
    "_+_",
    "_*_",
    "_/_",
    "_%_",
    "_==_",
    "_!=_",
    "_>=_",
    "_<=_",
    "_>_",
    "_<_",
    "-_",
    "_[_]",
    "@in",
    "@not_strictly_false",
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "int",
    "uint",
    "double",
    "string",
    "bool",
    "timestamp",
    "duration",
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "type",
    "dyn",
    "abs",
    "min",
    "max",
    "has",
    "all",
    "exists",
];

/// A parsed condition, with what is known of where its parts stand.
pub(crate) struct Parsed {
    pub(crate) expression: IdedExpr,
    pub(crate) places: Places,
}

/// Where parts stand in the source.
pub(crate) struct Places {
    info: SourceInfo,
}

/// What an expression reads, and how deep its loops nest.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Uses {
    pub(crate) reads: Reads,
    pub(crate) loops: usize,
}

/// Parses and checks a condition.
pub(crate) fn parse(source: &str) -> Result<Parsed, ConditionMistake> {
    let start = Position { line: 1, column: 1 };
    if source.trim().is_empty() {
        return Err(mistake(start, "the condition is empty", "leave `when` out to make the rule hold always"));
    }
    if source.len() > MAX_SOURCE_BYTES {
        let message = format!("the condition has {} bytes; at most {MAX_SOURCE_BYTES} are read", source.len());
        return Err(mistake(start, message, "split it into several rules"));
    }
    check_brackets(source)?;
    let (expression, info) =
        Parser::default().parse_with_source_info(source).map_err(|wrong| syntax(source, &wrong))?;
    let places = Places { info };
    let mut walk = Walk { places: &places, nodes: 0, bound: Vec::new(), deepest: 0 };
    walk.expression(&expression, 0)?;
    Ok(Parsed { expression, places })
}

/// What a checked expression reads.
pub(crate) fn uses(expression: &IdedExpr) -> Uses {
    let mut uses = Uses::default();
    gather(expression, 0, &mut uses);
    uses
}

impl Places {
    /// Where a part begins.
    pub(crate) fn of(&self, part: &IdedExpr) -> Position {
        let (start, _) = self.info.offset_for(part.id).unwrap_or_default();
        position(&self.info.source, usize::try_from(start).unwrap_or_default())
    }

    /// The text of a part, for people.
    pub(crate) fn text(&self, part: &IdedExpr) -> String {
        let (mut from, mut to) = (usize::MAX, 0);
        visit(part, &mut |node| {
            if let Some((start, stop)) = self.info.offset_for(node.id) {
                from = from.min(usize::try_from(start).unwrap_or(usize::MAX));
                to = to.max(usize::try_from(stop).unwrap_or_default() + 1);
            }
        });
        let source = &self.info.source;
        // Places of the parser leave names at either end out, and the bracket that ends a call.
        let name =
            |at: usize| source.as_bytes().get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        while from.checked_sub(1).is_some_and(name) {
            from -= 1;
        }
        while name(to) {
            to += 1;
        }
        let count = |text: &str, one: char, other: char| text.matches([one, other]).count();
        let open = |text: &str| count(text, '(', '[').saturating_sub(count(text, ')', ']'));
        while source.get(from..to).is_some_and(|text| open(text) > 0) && to < source.len() {
            to += 1;
        }
        source.get(from..to).unwrap_or(source).trim().to_owned()
    }
}

pub(crate) fn mistake(at: Position, message: impl Into<String>, hint: impl Into<String>) -> ConditionMistake {
    ConditionMistake { at, message: message.into(), hint: hint.into() }
}

/// The parser recurses with brackets and with what stands in front of a value, so both are counted before it starts.
fn check_brackets(source: &str) -> Result<(), ConditionMistake> {
    let (mut depth, mut signs) = (0_usize, 0_usize);
    for (at, byte) in source.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        signs = if matches!(byte, b'!' | b'-' | b'?') {
            signs + 1
        } else if byte == b' ' {
            signs
        } else {
            0
        };
        if depth > MAX_BRACKETS || signs > MAX_BRACKETS {
            let message = format!("more than {MAX_BRACKETS} brackets or signs inside each other");
            return Err(mistake(position(source, at), message, "write it flatter, or as several rules"));
        }
    }
    Ok(())
}

fn syntax(source: &str, wrong: &cel::ParseErrors) -> ConditionMistake {
    let first = wrong.errors.first();
    let message = first.map_or("this is no expression", |error| error.msg.as_str());
    let line = first.and_then(|error| u32::try_from(error.pos.0).ok()).unwrap_or(1).max(1);
    let column = first.and_then(|error| u32::try_from(error.pos.1).ok()).unwrap_or(1).max(1);
    // The parser counts the end as a line of its own where the source ends with one.
    let last = u32::try_from(source.lines().count()).unwrap_or(1).max(1);
    let message: String = message.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    mistake(Position { line: line.min(last), column }, message, "conditions are written in CEL; see docs/POLICY.md")
}

/// The place of a byte, counted as people do.
fn position(source: &str, offset: usize) -> Position {
    let before = source.get(..offset.min(source.len())).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Position { line: number(line), column: number(column) }
}

struct Walk<'a> {
    places: &'a Places,
    nodes: usize,
    /// Variables of the loops that we are in.
    bound: Vec<&'a str>,
    deepest: usize,
}

impl<'a> Walk<'a> {
    fn expression(&mut self, part: &'a IdedExpr, loops: usize) -> Result<(), ConditionMistake> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("the condition has more than {MAX_NODES} parts");
            return Err(mistake(Position { line: 1, column: 1 }, message, "split it into several rules"));
        }
        match &part.expr {
            Expr::Ident(name) => self.name(part, name),
            Expr::Call(call) => {
                self.function(part, &call.func_name)?;
                call.target
                    .iter()
                    .map(|target| &**target)
                    .chain(&call.args)
                    .try_for_each(|it| self.expression(it, loops))
            }
            Expr::Comprehension(all) => self.comprehension(part, all, loops),
            Expr::Select(select) => self.expression(&select.operand, loops),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.expression(element, loops)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.expression(&entry.key, loops)?;
                    self.expression(&entry.value, loops)
                }
                EntryExpr::StructField(field) => self.expression(&field.value, loops),
            }),
            Expr::Literal(_) => Ok(()),
            Expr::Struct(_) | Expr::Unspecified => {
                Err(mistake(self.places.of(part), "messages are not known here", "compare fields one by one"))
            }
        }
    }

    fn comprehension(
        &mut self,
        part: &'a IdedExpr,
        all: &'a ComprehensionExpr,
        loops: usize,
    ) -> Result<(), ConditionMistake> {
        let loops = loops + 1;
        self.deepest = self.deepest.max(loops);
        if loops > MAX_LOOP_DEPTH {
            let message = format!("loops stand more than {MAX_LOOP_DEPTH} deep inside each other");
            return Err(mistake(self.places.of(part), message, "a condition may not take that long; split it"));
        }
        if matches!(all.accu_init.expr, Expr::List(_) | Expr::Map(_)) {
            let hint = "use `exists`, `all` or `exists_one`";
            return Err(mistake(self.places.of(part), "`map` and `filter` are not available in conditions", hint));
        }
        // What is looped over is evaluated once, so it is no deeper than the loop itself.
        self.expression(&all.iter_range, loops - 1)?;
        self.expression(&all.accu_init, loops)?;
        let outside = self.bound.len();
        self.bound.extend([all.iter_var.as_str(), all.accu_var.as_str()]);
        self.bound.extend(all.iter_var2.as_deref());
        for inner in [&all.loop_cond, &all.loop_step, &all.result] {
            self.expression(inner, loops)?;
        }
        self.bound.truncate(outside);
        Ok(())
    }

    fn name(&self, part: &IdedExpr, name: &str) -> Result<(), ConditionMistake> {
        if self.bound.contains(&name) || NAMES.contains(&name) {
            return Ok(());
        }
        let hint = match outrigger_config::nearest(name, NAMES) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", NAMES.join(", ")),
        };
        Err(mistake(self.places.of(part), format!("`{}` is not known here", shown(name)), hint))
    }

    fn function(&self, part: &IdedExpr, name: &str) -> Result<(), ConditionMistake> {
        if FUNCTIONS.contains(&name) {
            return Ok(());
        }
        let hint = match name {
            "matches" => "use startsWith, endsWith and contains; expressions that search cost more than a decision may",
            "map" | "filter" => "use `exists`, `all` or `exists_one`",
            _ => "docs/POLICY.md lists the functions of conditions",
        };
        Err(mistake(
            self.places.of(part),
            format!("the function `{}` is not available in conditions", shown(name)),
            hint,
        ))
    }
}

fn shown(name: &str) -> String {
    name.chars().take(60).flat_map(char::escape_debug).collect()
}

fn gather(part: &IdedExpr, loops: usize, uses: &mut Uses) {
    uses.loops = uses.loops.max(loops);
    if let Expr::Ident(name) = &part.expr {
        // A loop variable of such a name reads too much, which is the safe side.
        match name.as_str() {
            "principal" => uses.reads.principal = true,
            "annotations" => uses.reads.annotations = true,
            "arguments" => uses.reads.arguments = true,
            "time" => uses.reads.time = true,
            "source" => uses.reads.source = true,
            _ => {}
        }
    }
    let inner = loops + usize::from(matches!(part.expr, Expr::Comprehension(_)));
    children(part, &mut |child| gather(child, inner, uses));
}

fn visit(part: &IdedExpr, each: &mut impl FnMut(&IdedExpr)) {
    each(part);
    let mut below: Vec<&IdedExpr> = Vec::new();
    children(part, &mut |child| below.push(child));
    below.into_iter().for_each(|child| visit(child, each));
}

fn children<'a>(part: &'a IdedExpr, each: &mut dyn FnMut(&'a IdedExpr)) {
    match &part.expr {
        Expr::Call(call) => call.target.iter().map(|target| &**target).chain(&call.args).for_each(each),
        Expr::Comprehension(all) => {
            [&all.iter_range, &all.accu_init, &all.loop_cond, &all.loop_step, &all.result].into_iter().for_each(each);
        }
        Expr::Select(select) => each(&select.operand),
        Expr::List(list) => list.elements.iter().for_each(each),
        Expr::Map(map) => map.entries.iter().for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => {
                each(&entry.key);
                each(&entry.value);
            }
            EntryExpr::StructField(field) => each(&field.value),
        }),
        Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}
