//! The revisions of MCP and the two eras they fall into.

/// A protocol revision that Outrigger speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// 2024-11-05: HTTP+SSE.
    V2024_11_05,
    /// 2025-03-26: Streamable HTTP, batches.
    V2025_03_26,
    /// 2025-06-18: version header, structured content, elicitation.
    V2025_06_18,
    /// 2025-11-25: resumable polling, URL elicitation, tasks.
    V2025_11_25,
    /// 2026-07-28: stateless.
    V2026_07_28,
}

impl Revision {
    /// Every revision, oldest first.
    pub const ALL: [Revision; 5] =
        [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];
    /// The newest revision with a handshake.
    pub const NEWEST_LEGACY: Revision = Self::V2025_11_25;
    /// The revision spoken inside the mesh.
    pub const MODERN: Revision = Self::V2026_07_28;

    /// Recognises a revision by its date.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == text)
    }

    /// The date that names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// Whether it is stateless (2026-07-28 and later).
    pub fn is_modern(self) -> bool {
        self >= Self::MODERN
    }
}

/// Whether a version string names a modern revision, known to us or not: dates compare as text.
pub fn looks_modern(version: &str) -> bool {
    version.len() == 10 && version >= Revision::MODERN.as_str()
}
