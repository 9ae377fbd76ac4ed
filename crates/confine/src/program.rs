//! The instructions of a seccomp filter (seccomp(2), "classic BPF"): a few rules in, a short program out.

/// One instruction, as `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) if_true: u8,
    pub(crate) if_false: u8,
    pub(crate) value: u32,
}

/// What becomes of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on.
    Allow,
    /// It fails with this error number.
    Refuse(i32),
    /// The warden answers it.
    Ask,
}

/// What an argument is looked at for. Arguments that matter here are `int`, so the lower half is all of it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Test {
    /// Argument (0 to 5), masked, equals.
    Is(u8, u32, u32),
    /// Argument has any of these bits.
    Any(u8, u32),
}

/// The first rule whose call and tests all hold decides.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) call: libc::c_long,
    pub(crate) tests: Vec<Test>,
    pub(crate) verdict: Verdict,
}

// linux/audit.h: the machine's own system calls. Those of others (32 bit) have other numbers and end the process.
#[cfg(target_arch = "x86_64")]
const MACHINE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = 0xC000_00B7;

/// The first number that Linux 6.18 does not have. Newer calls, and the second set of numbers of x86-64 (x32), are answered
/// as by a kernel without them: what we do not know cannot be a way around.
const FIRST_UNKNOWN: u32 = 470;

// linux/bpf_common.h
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const IF_ANY: u16 = 0x45;
const RETURN: u16 = 0x06;

// linux/seccomp.h: `struct seccomp_data`, and what a filter returns.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
const KILL_PROCESS: u32 = 0x8000_0000;
const ERROR: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const ALLOW: u32 = 0x7fff_0000;

impl Verdict {
    fn code(self) -> u32 {
        match self {
            Self::Allow => ALLOW,
            Self::Refuse(error) => ERROR | error.unsigned_abs(),
            Self::Ask => NOTIFY,
        }
    }
}

fn plain(code: u16, value: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, value }
}

fn jump(code: u16, value: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, value }
}

/// The program of these rules; a call that none is about is allowed.
pub(crate) fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        plain(LOAD, ARCHITECTURE),
        jump(IF_EQUAL, MACHINE, 1, 0),
        plain(RETURN, KILL_PROCESS),
        plain(LOAD, NUMBER),
        jump(IF_AT_LEAST, FIRST_UNKNOWN, 0, 1),
        plain(RETURN, Verdict::Refuse(libc::ENOSYS).code()),
    ];
    for rule in rules {
        let body = body(rule);
        // Numbers of calls and lengths of bodies are small: at most 17 instructions for five tests.
        program.push(jump(IF_EQUAL, u32::try_from(rule.call).unwrap_or(u32::MAX), 0, length(&body)));
        program.extend(body);
    }
    program.push(plain(RETURN, ALLOW));
    program
}

/// What follows when the number fits: the tests, the verdict, and the way on when a test fails.
fn body(rule: &Rule) -> Vec<Instruction> {
    let mut rest = vec![plain(RETURN, rule.verdict.code())];
    if rule.tests.is_empty() {
        return rest;
    }
    for test in rule.tests.iter().rev() {
        // A failed test jumps over what is left, to where the number is loaded again.
        let past = length(&rest);
        let mut part = match *test {
            Test::Is(argument, mask, value) => {
                vec![plain(LOAD, ARGUMENTS + 8 * u32::from(argument)), plain(AND, mask), jump(IF_EQUAL, value, 0, past)]
            }
            Test::Any(argument, bits) => {
                vec![plain(LOAD, ARGUMENTS + 8 * u32::from(argument)), jump(IF_ANY, bits, 0, past)]
            }
        };
        part.extend(rest);
        rest = part;
    }
    rest.push(plain(LOAD, NUMBER));
    rest
}

fn length(part: &[Instruction]) -> u8 {
    u8::try_from(part.len()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], machine: u32, call: u32, arguments: [u32; 6]) -> u32 {
        let (mut at, mut a) = (0, 0);
        loop {
            let i = program[at];
            at += 1;
            let chosen = |yes: bool| usize::from(if yes { i.if_true } else { i.if_false });
            match i.code {
                LOAD if i.value == NUMBER => a = call,
                LOAD if i.value == ARCHITECTURE => a = machine,
                LOAD => a = arguments[((i.value - ARGUMENTS) / 8) as usize],
                AND => a &= i.value,
                IF_EQUAL => at += chosen(a == i.value),
                IF_AT_LEAST => at += chosen(a >= i.value),
                IF_ANY => at += chosen(a & i.value != 0),
                RETURN => return i.value,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_others_go_on() {
        let rule = |tests: &[Test], verdict| Rule { call: 41, tests: tests.to_vec(), verdict };
        let program = assemble(&[
            rule(&[Test::Is(0, u32::MAX, 2), Test::Is(1, 0xf, 1)], Verdict::Allow),
            rule(&[Test::Any(2, 0x30)], Verdict::Ask),
            rule(&[], Verdict::Refuse(13)),
            Rule { call: 42, tests: vec![], verdict: Verdict::Ask },
        ]);
        let ask = |call, arguments: [u32; 3]| {
            run(&program, MACHINE, call, [arguments[0], arguments[1], arguments[2], 0, 0, 0])
        };
        assert_eq!(ask(41, [2, 0x80801, 0]), ALLOW, "masked bits do not count");
        assert_eq!(ask(41, [2, 2, 0]), ERROR | 13, "the second test fails");
        assert_eq!(ask(41, [3, 1, 0x20]), NOTIFY);
        assert_eq!(ask(42, [9, 9, 9]), NOTIFY);
        assert_eq!(ask(43, [0, 0, 0]), ALLOW);
    }

    #[test]
    fn foreign_numbers_end_the_process_and_unknown_ones_do_not_exist() {
        let program = assemble(&[]);
        assert_eq!(run(&program, 0x4000_0003, 1, [0; 6]), KILL_PROCESS, "i386");
        assert_eq!(run(&program, MACHINE, 0x4000_0029, [0; 6]), ERROR | 38, "x32's socket");
        assert_eq!(run(&program, MACHINE, FIRST_UNKNOWN, [0; 6]), ERROR | 38);
        assert_eq!(run(&program, MACHINE, u32::MAX, [0; 6]), ERROR | 38);
    }
}
