//! What kernels are compiled for, and which device can run them. The build script shares this file.

use std::fmt;

/// An architecture that machine code is compiled for: `sm_80`, or `sm_90a`, whose code may use instructions that no other
/// architecture has. Ordered by compute capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Architecture {
    /// The compute capability's first number.
    pub major: u32,
    /// The compute capability's second number.
    pub minor: u32,
    /// Runs on this compute capability alone.
    pub specific: bool,
}

/// The architecture of the PTX that every kernel comes with, which the driver compiles for devices that no machine code
/// fits. The kernels' instructions start there.
pub const PTX: Architecture = Architecture { major: 8, minor: 0, specific: false };

/// What the driver runs on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The machine code of an architecture.
    Machine(Architecture),
    /// Machine code that it compiles from PTX when the kernels are loaded: slow to start, then less tuned.
    FromPtx,
}

impl Architecture {
    /// Reads `sm_80`; nothing before [`PTX`].
    pub fn parse(name: &str) -> Option<Self> {
        let number = name.strip_prefix("sm_")?;
        let (number, specific) = number.strip_suffix('a').map_or((number, false), |number| (number, true));
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number: u32 = number.parse().ok()?;
        let architecture = Self { major: number / 10, minor: number % 10, specific };
        (architecture >= PTX).then_some(architecture)
    }

    /// Reads architectures separated by commas, into ascending order without repetitions.
    ///
    /// # Errors
    /// The first word that names none.
    pub fn list(names: &str) -> Result<Vec<Self>, &str> {
        let words = names.split(',').map(str::trim);
        let mut architectures = words.map(|word| Self::parse(word).ok_or(word)).collect::<Result<Vec<_>, _>>()?;
        architectures.sort();
        architectures.dedup();
        Ok(architectures)
    }

    /// What [`list`](Self::list) reads.
    pub fn join(architectures: &[Self]) -> String {
        architectures.iter().map(Self::to_string).collect::<Vec<_>>().join(",")
    }

    /// nvcc's number: 80, 90a.
    pub fn number(self) -> String {
        let Self { major, minor, specific } = self;
        format!("{major}{minor}{}", if specific { "a" } else { "" })
    }

    /// Whether its machine code runs on a device of compute capability `(major, minor)`.
    pub fn runs_on(self, device: (u32, u32)) -> bool {
        let (major, minor) = device;
        self.major == major && if self.specific { self.minor == minor } else { self.minor <= minor }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}", self.number())
    }
}

/// What a device of compute capability `(major, minor)` runs of kernels built for `built` and [`PTX`]: the machine code
/// nearest to it, else PTX, or nothing.
pub fn code_for(device: (u32, u32), built: &[Architecture]) -> Option<Code> {
    let machine = built.iter().copied().filter(|architecture| architecture.runs_on(device)).max();
    let ptx = (device >= (PTX.major, PTX.minor)).then_some(Code::FromPtx);
    machine.map(Code::Machine).or(ptx)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let sm_90a = Architecture { major: 9, minor: 0, specific: true };
        let sm_103 = Architecture { major: 10, minor: 3, specific: false };
        assert_eq!(Architecture::parse("sm_80"), Some(PTX));
        assert_eq!(Architecture::parse("sm_90a"), Some(sm_90a));
        assert_eq!(Architecture::parse("sm_103"), Some(sm_103));
        for name in ["", "80", "sm_", "sm_a", "sm_8", "sm_75", "sm_90b", "sm_+90", "sm_90aa", "compute_80", "SM_80"] {
            assert_eq!(Architecture::parse(name), None, "{name}");
        }
        assert_eq!(Architecture::list("sm_90a, sm_80,sm_103,sm_80"), Ok(vec![PTX, sm_90a, sm_103]));
        assert_eq!(Architecture::list("sm_80,90"), Err("90"));
        assert_eq!(Architecture::list(""), Err(""));
        assert_eq!(Architecture::join(&[PTX, sm_90a, sm_103]), "sm_80,sm_90a,sm_103");
    }

    #[test]
    fn devices() {
        const RELEASE: &str = "sm_80,sm_86,sm_89,sm_90a,sm_100,sm_120";
        // What is built, the device, and what it runs: machine code, "ptx", or "" for nothing.
        let cases = [
            ("sm_80,sm_90a", (7, 0), ""),
            ("sm_80,sm_90a", (7, 5), ""),
            ("sm_80,sm_90a", (8, 0), "sm_80"),
            ("sm_80,sm_90a", (8, 6), "sm_80"),
            ("sm_80,sm_90a", (8, 9), "sm_80"),
            ("sm_80,sm_90a", (9, 0), "sm_90a"),
            ("sm_80,sm_90a", (10, 0), "ptx"),
            ("sm_80,sm_90a", (12, 1), "ptx"),
            (RELEASE, (8, 6), "sm_86"),
            (RELEASE, (8, 7), "sm_86"),
            (RELEASE, (8, 9), "sm_89"),
            (RELEASE, (10, 3), "sm_100"),
            (RELEASE, (11, 0), "ptx"),
            (RELEASE, (12, 0), "sm_120"),
            (RELEASE, (12, 1), "sm_120"),
            ("sm_86", (8, 0), "ptx"),
            ("sm_89", (8, 6), "ptx"),
            ("sm_90", (9, 0), "sm_90"),
            ("sm_90,sm_90a", (9, 0), "sm_90a"),
            ("sm_100a", (10, 0), "sm_100a"),
            ("sm_100a", (10, 3), "ptx"),
            ("sm_100,sm_103a", (10, 1), "sm_100"),
        ];
        for (built, device, expected) in cases {
            let code = code_for(device, &Architecture::list(built).unwrap());
            let expected = match expected {
                "" => None,
                "ptx" => Some(Code::FromPtx),
                name => Some(Code::Machine(Architecture::parse(name).unwrap())),
            };
            assert_eq!(code, expected, "{built} on {device:?}");
        }
    }
}
