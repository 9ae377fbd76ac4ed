//! What a confined child is given: what programs need to run, what its command names, what the settings add, and a
//! directory of its own.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use outrigger_confine::{Kernel, Plan};

use crate::config::{Command, Firmness, Sandbox};

/// What every program may read: the system's programs, libraries, certificates and names, and facts about the machine.
/// Not `/etc` as a whole, nor anything below `/home`, `/root`, `/var` and `/run`.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/opt",
    "/nix/store",
    "/proc",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
    "/run/systemd/resolve",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/fonts",
    "/etc/gitconfig",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    // Not these two as a whole: private keys of the machine's own services lie in there.
    "/etc/pki/ca-trust",
    "/etc/pki/java",
    "/etc/pki/nssdb",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
];
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// What belongs to programs in a `bin` and lies beside it: libraries, a virtual environment's mark, tools' own Pythons.
const BESIDE_BIN: &[&str] = &["lib", "lib64", "libexec", "pyvenv.cfg", "share/uv", "share/pipx", "ssl"];
/// What scripts need of the project that they are in.
const BESIDE_SCRIPT: &[&str] = &["node_modules", "package.json", "pyproject.toml"];
const SCRIPTS: &[&str] = &["py", "pyz", "js", "mjs", "cjs", "ts", "mts", "jar", "rb", "sh"];
/// Where the child's home would be looked for before `HOME`.
pub(crate) const HOMES: &[&str] =
    &["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"];

/// What the sidecar has for itself, whatever lies around it: a child that reads its keys is who it is, and one that writes its
/// settings has the rules that it likes.
#[derive(Debug, Default)]
pub struct Kept {
    /// Nobody but the sidecar reads these.
    pub secret: Vec<PathBuf>,
    /// And nobody else changes these.
    pub trusted: Vec<PathBuf>,
}

/// A confined child: the plan, and where its home is when that lasts.
#[derive(Debug, Clone)]
pub struct Confinement {
    /// What it may do, but for its own directory.
    pub plan: Plan,
    /// A home that lasts.
    pub home: Option<PathBuf>,
}

/// The confinement of a server; `None` when it is off. `egress` is where it finds the outbound proxy,
/// `certificates` the file of those that it must believe.
///
/// # Errors
/// A strict confinement that this kernel cannot do, a path that does not exist, or one to write that is around what is `kept`.
pub fn confinement(
    sandbox: &Sandbox,
    command: &Command,
    egress: Option<SocketAddr>,
    certificates: Option<&Path>,
    kept: &Kept,
) -> Result<Option<Confinement>, String> {
    let strict = match sandbox.firmness {
        Firmness::Off => return Ok(None),
        Firmness::Strict => true,
        Firmness::BestEffort => false,
    };
    judge(&Kernel::look().missing(), strict)?;
    for path in sandbox.read.iter().chain(&sandbox.write).chain(&sandbox.home) {
        fs::metadata(path).map_err(|e| format!("confine: {}: {e}; make it, or remove it there", path.display()))?;
    }
    guard(sandbox, kept)?;
    let mut read: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    read.extend(named_by(command));
    read.extend(sandbox.read.iter().cloned());
    read.extend(certificates.map(Path::to_owned));
    read.sort_unstable();
    read.dedup();
    let plan = Plan {
        strict,
        read,
        closed: sandbox.closed.iter().chain(&kept.secret).cloned().collect(),
        write: sandbox.write.iter().chain(&sandbox.home).cloned().collect(),
        devices: DEVICES.iter().map(PathBuf::from).collect(),
        connect: sandbox.connect.iter().copied().chain(egress).collect(),
        listen: sandbox.listen.clone(),
        sockets: sandbox.sockets.clone(),
        own: None,
    };
    Ok(Some(Confinement { plan, home: sandbox.home.clone() }))
}

/// Refuses a writable directory with something in it that the child must not change.
fn guard(sandbox: &Sandbox, kept: &Kept) -> Result<(), String> {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    for open in sandbox.write.iter().chain(&sandbox.home) {
        let inside = |path: &&PathBuf| real(path).starts_with(real(open));
        if let Some(kept) = sandbox.closed.iter().chain(&kept.secret).chain(&kept.trusted).find(inside) {
            let (open, kept) = (open.display(), kept.display());
            return Err(format!(
                "confine: the server could change {kept}, which lies in {open}; move it, or name another directory"
            ));
        }
    }
    Ok(())
}

/// Refuses, or tells, what the kernel lacks.
fn judge(missing: &[String], strict: bool) -> Result<(), String> {
    if missing.is_empty() {
        return Ok(());
    }
    if strict {
        let list = missing.join("; ");
        return Err(format!("sandbox: strict is not possible here: missing {list}; or choose `sandbox: best-effort`"));
    }
    for missing in missing {
        tracing::warn!("sandbox: best-effort confines the server in part: missing {missing}");
    }
    Ok(())
}

/// What the command needs to be found and run: the programs of PATH, the program itself where it really lies, the scripts
/// among its arguments, and its working directory.
fn named_by(command: &Command) -> Vec<PathBuf> {
    let given = command.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.reveal().into());
    let path = given.or_else(|| std::env::var_os("PATH")).unwrap_or_default();
    let mut found: Vec<PathBuf> = std::env::split_paths(&path).flat_map(|bin| toolchain(&bin)).collect();
    let program = command.words.first().map(Path::new).unwrap_or_else(|| Path::new(""));
    found.extend(located(program, &path).iter().flat_map(|program| installation(program)));
    let at = command.cwd.clone().or_else(|| std::env::current_dir().ok()).unwrap_or_default();
    found.extend(command.words.iter().skip(1).flat_map(|word| script(&at.join(word))));
    found.extend(command.cwd.clone());
    found
}

fn located(program: &Path, path: &OsStr) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return Some(program.to_owned());
    }
    std::env::split_paths(path).map(|bin| bin.join(program)).find(|candidate| candidate.is_file())
}

/// A directory of programs with what lies beside it. The directory above is not opened: it may be somebody's home.
fn toolchain(bin: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Some(above) = bin.parent().filter(|above| bin.is_absolute() && !is_broad(bin) && above.parent().is_some())
    else {
        return found;
    };
    found.push(bin.to_owned());
    found.extend(BESIDE_BIN.iter().map(|name| above.join(name)));
    if above.file_name() == Some(OsStr::new("node_modules")) {
        found.push(above.to_owned());
    }
    // The interpreter of a virtual environment is a link to one elsewhere, with libraries of its own.
    for interpreter in ["python3", "python", "node"] {
        if let Ok(real) = fs::canonicalize(bin.join(interpreter))
            && let Some(elsewhere) = real.parent().filter(|elsewhere| *elsewhere != bin)
            && let Some(above) = elsewhere.parent().filter(|above| above.parent().is_some())
        {
            found.push(elsewhere.to_owned());
            found.extend(BESIDE_BIN.iter().map(|name| above.join(name)));
        }
    }
    found
}

/// A program where it lies, and where it really lies when that is a link.
fn installation(program: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let real = fs::canonicalize(program).ok();
    for place in [Some(program.to_owned()), real].into_iter().flatten() {
        found.extend(place.parent().into_iter().flat_map(toolchain));
        if let Some(modules) = modules_of(&place) {
            found.push(modules);
        }
        found.push(place);
    }
    found
}

/// The outermost `node_modules` that a file is in.
fn modules_of(file: &Path) -> Option<PathBuf> {
    file.ancestors().filter(|path| path.file_name() == Some(OsStr::new("node_modules"))).last().map(Path::to_owned)
}

/// An argument that is a script: its directory, and what its project has beside it. Other arguments give nothing: which
/// data a server may touch is said by settings.
fn script(file: &Path) -> Vec<PathBuf> {
    let known = file.extension().and_then(OsStr::to_str).is_some_and(|extension| SCRIPTS.contains(&extension));
    if !known || !file.is_file() {
        return Vec::new();
    }
    let mut found = vec![file.to_owned()];
    let real = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    found.extend(modules_of(&real));
    if let Some(directory) = real.parent().filter(|directory| !is_broad(directory)) {
        found.push(directory.to_owned());
        for project in directory.ancestors().take(2).filter(|project| !is_broad(project)) {
            found.extend(BESIDE_SCRIPT.iter().map(|name| project.join(name)));
        }
    }
    found
}

/// Whether a directory holds more than one project: nothing that a command names opens it as a whole.
fn is_broad(directory: &Path) -> bool {
    let shared = ["/", "/home", "/root", "/tmp", "/var", "/var/tmp", "/etc", "/srv", "/run", "/mnt"];
    let home = std::env::var_os("HOME").map(PathBuf::from);
    shared.iter().any(|path| directory == Path::new(path))
        || directory.parent() == Some(Path::new("/home"))
        || home.is_some_and(|home| home.starts_with(directory))
}

/// The variables that lead a program to a directory of its own, and to its home where that is elsewhere.
pub(crate) fn variables(own: &Path, home: Option<&Path>) -> BTreeMap<String, PathBuf> {
    let home = home.unwrap_or(own);
    ["TMPDIR", "TMP", "TEMP"]
        .into_iter()
        .map(|name| (name.to_owned(), own.to_owned()))
        .chain([("HOME".to_owned(), home.to_owned())])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own_directory::OwnDirectory;

    fn command(words: &[&str]) -> Command {
        Command { words: words.iter().map(|word| (*word).to_owned()).collect(), env: Vec::new(), cwd: None }
    }

    #[test]
    fn strict_refuses_with_everything_that_is_missing_and_best_effort_goes_on() {
        let missing = ["Landlock: needs Linux 6.12".to_owned(), "pidfd_getfd(2)".to_owned()];
        let refused = judge(&missing, true).unwrap_err();
        assert!(refused.contains("Landlock") && refused.contains("pidfd_getfd") && refused.contains("best-effort"));
        assert_eq!(judge(&missing, false), Ok(()));
        assert_eq!(judge(&[], true), Ok(()));
    }

    #[test]
    fn off_confines_nothing_and_a_missing_path_is_named() {
        assert!(confinement(&Sandbox::default(), &command(&["true"]), None, None, &Kept::default()).unwrap().is_none());
        let sandbox =
            Sandbox { firmness: Firmness::BestEffort, write: vec!["/no/such/directory".into()], ..Sandbox::default() };
        let wrong = confinement(&sandbox, &command(&["true"]), None, None, &Kept::default()).unwrap_err();
        assert!(wrong.contains("/no/such/directory"), "{wrong}");
    }

    #[test]
    fn what_the_sidecar_keeps_is_closed_and_lies_in_no_writable_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (key, rules) = (dir.path().join("key"), dir.path().join("data/rules.yaml"));
        fs::create_dir(dir.path().join("data")).unwrap();
        for file in [&key, &rules] {
            fs::write(file, "").unwrap();
        }
        let kept = Kept { secret: vec![key.clone()], trusted: vec![rules.clone()] };
        let confined = |write: &Path, kept: &Kept| {
            let write = vec![write.to_owned()];
            let sandbox = Sandbox { firmness: Firmness::BestEffort, write, ..Sandbox::default() };
            confinement(&sandbox, &command(&["true"]), None, None, kept).map(|found| found.unwrap().plan)
        };
        for around in [dir.path(), &dir.path().join("data"), &rules] {
            let wrong = confined(around, &kept).unwrap_err();
            assert!(wrong.contains("could change"), "{wrong}");
        }
        let kept = Kept { trusted: Vec::new(), ..kept };
        assert_eq!(confined(&dir.path().join("data"), &kept).unwrap().closed, [key]);
    }

    #[test]
    fn the_proxy_is_all_that_is_reached_by_default() {
        let sandbox = Sandbox { firmness: Firmness::BestEffort, ..Sandbox::default() };
        let proxy = "127.0.0.1:15001".parse().unwrap();
        let plan =
            confinement(&sandbox, &command(&["true"]), Some(proxy), None, &Kept::default()).unwrap().unwrap().plan;
        assert_eq!((plan.connect, plan.listen, plan.write), (vec![proxy], vec![], vec![]));
    }

    #[test]
    fn a_command_opens_its_project_and_not_the_directory_around() {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path().join("project");
        fs::create_dir_all(project.join("dist")).unwrap();
        let main = project.join("dist/index.js");
        fs::write(&main, "").unwrap();
        let opened = named_by(&command(&["node", main.to_str().unwrap(), dir.path().to_str().unwrap()]));
        assert!(opened.contains(&project.join("dist")) && opened.contains(&project.join("node_modules")));
        for closed in [dir.path(), &project, Path::new("/tmp"), Path::new("/")] {
            assert!(!opened.contains(&closed.to_owned()), "{closed:?}");
        }
    }

    #[test]
    fn broad_directories_are_never_opened_for_a_command() {
        for broad in ["/", "/tmp", "/home", "/home/ada", "/root"] {
            assert!(is_broad(Path::new(broad)), "{broad}");
        }
        assert!(!is_broad(Path::new("/srv/app")));
        assert_eq!(toolchain(Path::new("/tmp")), Vec::<PathBuf>::new());
        assert_eq!(toolchain(Path::new("bin")), Vec::<PathBuf>::new(), "relative");
    }

    #[test]
    fn a_directory_of_its_own_is_private_and_goes_away() {
        let own = OwnDirectory::make(0o700).unwrap();
        let path = own.path().to_owned();
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(variables(&path, None).get("HOME"), Some(&path));
        assert_eq!(variables(&path, Some(Path::new("/x"))).get("HOME"), Some(&PathBuf::from("/x")));
        drop(own);
        let gone = || !path.exists();
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        while !gone() && tokio::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(gone());
    }
}
