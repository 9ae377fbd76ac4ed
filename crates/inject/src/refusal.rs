//! Why a pod that asks for a sidecar gets none. Each text says what to do: people read it where they created the pod.

/// Why there is no sidecar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not what Kubernetes calls a pod.
    #[error("this is no pod: {0}")]
    NotAPod(&'static str),
    /// An annotation that nobody reads.
    #[error("nothing reads the annotation `outrigger.dev/{name}`{}", suggestion.as_ref().map_or_else(|| "; docs/KUBERNETES.md lists those that there are".to_owned(), |near| format!("; did you mean `outrigger.dev/{near}`?")))]
    UnknownAnnotation {
        /// Without the prefix.
        name: String,
        /// One that is spelled nearly so.
        suggestion: Option<&'static str>,
    },
    /// A value that is none of those that can be.
    #[error("the annotation `outrigger.dev/{name}` is `{value}`, but it must be {expected}")]
    Value {
        /// Without the prefix.
        name: String,
        /// What it is.
        value: String,
        /// What it could be.
        expected: String,
    },
    /// Two annotations that say different things.
    #[error("the annotations `outrigger.dev/{0}` and `outrigger.dev/{1}` exclude each other: {2}")]
    Contradiction(&'static str, &'static str, &'static str),
    /// Nobody said which service it is.
    #[error(
        "which service is it? Set the annotation `outrigger.dev/service`, or give the pod a service account of its own, \
         whose name counts (1 to 20 of a-z, 0-9 and `-`)"
    )]
    NoService,
    /// A way to a certificate that the injector was not told of.
    #[error(
        "no certificate for the sidecar: the pod wants one by `outrigger.dev/identity: {0}`, and the injector's settings have no `{1}`; \
         set that there, or change the annotation"
    )]
    NotOffered(&'static str, &'static str),
    /// Where a pod came from is not noted in it.
    #[error(
        "this pod does not say what it was before it got its sidecar: a webhook gave it that, or another version; take the \
         annotation out of what the pod was made of"
    )]
    NotNoted,
    /// What was noted does not fit, at this place (RFC 6901).
    #[error(
        "this was changed after it got its sidecar (at {0}), so that what was added cannot be taken away; use what it was made \
         of, or undo the change"
    )]
    Changed(String),
    /// The pod uses the network of its node.
    #[error(
        "the pod uses the network of its node (`hostNetwork: true`), where a sidecar would stand in the way of other pods; \
         remove that, or set `outrigger.dev/inject: \"false\"`"
    )]
    HostNetwork,
    /// Windows.
    #[error("sidecars run on Linux only; set `outrigger.dev/inject: \"false\"`")]
    Windows,
    /// A container that would have the name of ours.
    #[error("the pod has a container `{0}` already, which is the name of one that is injected; rename it")]
    ContainerName(String),
    /// A volume that would have the name of ours.
    #[error("the pod has a volume `{0}` already, which is the name of one that is injected; rename it")]
    VolumeName(String),
    /// Something else is mounted where ours belongs.
    #[error(
        "the container `{container}` mounts something at {path}, where the sidecar's own files belong; mount it elsewhere"
    )]
    Mount {
        /// Which.
        container: String,
        /// Where.
        path: &'static str,
    },
    /// A variable that is the sidecar's.
    #[error("the container `{container}` sets {variable}, which the injector sets; remove it, and use an annotation")]
    Variable {
        /// Which.
        container: String,
        /// Its name.
        variable: String,
    },
    /// A port that is the sidecar's.
    #[error(
        "the container `{container}` has port {port}, which is the sidecar's; let the sidecar use another one with the \
         annotation `outrigger.dev/{annotation}`"
    )]
    Port {
        /// Which.
        container: String,
        /// The port.
        port: u16,
        /// What moves the sidecar away, without the prefix.
        annotation: &'static str,
    },
    /// Two ports of the sidecar that are the same.
    #[error("the annotations `outrigger.dev/{0}` and `outrigger.dev/{1}` name the same port")]
    SamePort(&'static str, &'static str),
    /// The server would run as the sidecar.
    #[error(
        "{0} runs as user 1337, which is the sidecar's: rules of egress go by it, and each could read the other's keys; \
         choose another `runAsUser`"
    )]
    User(String),
    /// A container that could be the sidecar's user, or root, with redirection.
    #[error(
        "the container `{0}` may run as root or as user 1337, for whom the rules of `outrigger.dev/egress: redirect` do not hold: \
         say in its `securityContext`, or in that of the pod, as which other user it runs, such as `runAsUser: 1000` (the user of \
         its image is not known here, and `runAsNonRoot` does not say enough), or use `proxy`"
    )]
    UserUnknown(String),
    /// A container that could take away the rules of redirection.
    #[error(
        "the container `{container}` {what}, and so could take away or go around the rules of `outrigger.dev/egress: \
         redirect`; remove that, or use `proxy`"
    )]
    Privileged {
        /// Which.
        container: String,
        /// What it has.
        what: &'static str,
    },
    /// A container that is named and is not there.
    #[error("`outrigger.dev/container` names `{0}`, but the pod's containers are: {1}")]
    NoContainer(String, String),
    /// A stdio server in one of several containers.
    #[error("which container is the server? Set `outrigger.dev/container` to one of: {0}")]
    WhichContainer(String),
    /// An HTTP server whose port nobody knows.
    #[error(
        "the port of the server is not known: name it in the container's `ports`, or set `outrigger.dev/port`. Does the server \
         speak over stdin and stdout? Then set `outrigger.dev/transport: stdio`"
    )]
    NoPort,
    /// Several ports that could be the server's.
    #[error("which port is the server's? Set `outrigger.dev/port` to one of: {0}")]
    WhichPort(String),
    /// The command of a stdio server is in its image alone.
    #[error(
        "the sidecar starts a stdio server, but the command of the container `{0}` stands in its image alone; say it in the \
         pod's `command`, or as `outrigger.dev/command`: what `docker image inspect --format '{{{{json .Config.Entrypoint}}}} \
         {{{{json .Config.Cmd}}}}'` shows"
    )]
    NoCommand(String),
    /// A pod that ends, beside a sidecar that does not.
    #[error(
        "the pod ends by itself (`restartPolicy: {0}`), but a sidecar that is not native would not let it: native sidecars \
         need Kubernetes 1.29"
    )]
    NeverEnds(String),
}
