//! Compiles each kernel to a fatbin of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, io, thread};

use super::architecture::{Architecture, PTX};
use super::tools::Nvcc;
use super::{Failure, failed_to};

const FOLDER: &str = "kernels";
/// `-v` makes ptxas report registers and spills, which a test reads.
#[rustfmt::skip]
const FLAGS: [&str; 8] = [
    "-fatbin", "-std=c++17", "-O3", "-lineinfo", "--expt-relaxed-constexpr", "-Werror=all-warnings", "-Xptxas=-v",
    "-Ikernels",
];

/// The files of `kernels/` by path without the folder, so that `sm90/projection.cu` and `projection.cu` differ.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Compiles those kernels whose inputs changed since the last time, each on its own: another commit, or a change to one
/// kernel, compiles nothing else. Writes `fatbins.rs`, which embeds all of them.
pub fn compile(nvcc: &Nvcc, architectures: &[Architecture], out: &Path) -> Result<(), Failure> {
    let mut files = Files::new();
    read(Path::new(FOLDER), &mut files).map_err(|error| failed_to("read kernels/", error))?;
    let (sources, headers): (Files, Files) =
        files.into_iter().partition(|(file, _)| file.extension().is_some_and(|extension| extension == "cu"));
    if sources.is_empty() {
        return Err(Failure {
            cause: "kernels/ has no .cu file to compile".into(),
            remedy: "restore the folder from the repository".into(),
        });
    }
    let mut kernels = Vec::new();
    for (file, text) in sources {
        let targets = targets(&file, architectures);
        if !targets.is_empty() {
            let inputs = hash((&targets, &text, &headers, &nvcc.version, &nvcc.flags, nvcc.compiler.args()));
            kernels.push(Kernel { file, targets, inputs, out });
        }
    }

    // Cargo lets a build script use this many threads.
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), Failure> {
        while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
            kernel.compile(nvcc)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..kernels.len().min(jobs)).map(|_| scope.spawn(work)).collect();
        let join = |worker: thread::ScopedJoinHandle<_>| worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        workers.into_iter().try_for_each(join)
    })?;

    let mut table = String::from("pub static FATBINS: &[Fatbin] = &[\n");
    for name in kernels.iter().map(Kernel::name) {
        let file = |extension| format!(r#"concat!(env!("OUT_DIR"), "/{name}.{extension}")"#);
        let image = format!("image: &Aligned(*include_bytes!({}))", file("fatbin"));
        let ptxas = format!("#[cfg(test)] ptxas: include_str!({})", file("ptxas"));
        let _ = writeln!(table, "    Fatbin {{ name: {name:?}, {image}, {ptxas} }},");
    }
    table.push_str("];\n");
    fs::write(out.join("fatbins.rs"), table).map_err(|error| failed_to("write fatbins.rs", error))
}

fn read(folder: &Path, files: &mut Files) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, files)?;
        } else {
            let name = path.strip_prefix(FOLDER).unwrap_or(&path).to_path_buf();
            files.insert(name, fs::read(&path)?);
        }
    }
    Ok(())
}

/// nvcc's names of what a kernel is compiled for. What lies in `sm90/` is written in instructions that `sm_90a` alone has:
/// it is compiled for no other, and left out where that one is not asked for.
fn targets(file: &Path, architectures: &[Architecture]) -> Vec<String> {
    let target = |of: &Architecture, kind: &str| format!("-gencode=arch=compute_{0},code={kind}_{0}", of.number());
    let folder = file.parent().unwrap_or(Path::new(""));
    if folder == Path::new("") {
        let machine_code = architectures.iter().map(|of| target(of, "sm"));
        machine_code.chain([target(&PTX, "compute")]).collect()
    } else {
        let own = architectures.iter().filter(|of| of.specific && Path::new(&folder_of(of)) == folder);
        own.map(|of| target(of, "sm")).collect()
    }
}

/// The folder of the kernels that are written for one architecture alone: `sm90`.
fn folder_of(architecture: &Architecture) -> String {
    format!("sm{}{}", architecture.major, architecture.minor)
}

fn hash(inputs: impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    (inputs, FLAGS).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

struct Kernel<'a> {
    file: PathBuf,
    targets: Vec<String>,
    /// A hash of all that decides what comes out.
    inputs: String,
    out: &'a Path,
}

impl Kernel<'_> {
    /// The file's name without its extension.
    fn name(&self) -> String {
        self.file.with_extension("").display().to_string()
    }

    fn output(&self, extension: &str) -> PathBuf {
        self.out.join(self.file.with_extension(extension))
    }

    fn compile(&self, nvcc: &Nvcc) -> Result<(), Failure> {
        let source = Path::new(FOLDER).join(&self.file);
        let (fatbin, inputs) = (self.output("fatbin"), self.output("inputs"));
        // Written last, so that what was interrupted is done again.
        if fatbin.is_file() && fs::read_to_string(&inputs).is_ok_and(|last| last == self.inputs) {
            return Ok(());
        }
        let mut command = nvcc.compiler.to_command();
        command.args(FLAGS).args(&self.targets).arg(&source).arg("-o").arg(&fatbin);
        let prepare = || {
            fs::create_dir_all(fatbin.parent().unwrap_or(self.out))?;
            if inputs.exists() { fs::remove_file(&inputs) } else { Ok(()) }
        };
        let output = prepare().and_then(|()| command.output()).map_err(|error| failed_to("run nvcc", error))?;
        let report = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            // Without the environment, which Debug of the whole command shows: it may hold what no log should.
            let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
            eprintln!("{} {}", command.get_program().display(), arguments.join(" "));
            eprintln!("{}{report}", String::from_utf8_lossy(&output.stdout));
            return Err(Failure {
                cause: format!("nvcc refuses {}", source.display()),
                remedy: "correct what its message below names".into(),
            });
        }
        fs::write(self.output("ptxas"), report.as_bytes())
            .and_then(|()| fs::write(inputs, &self.inputs))
            .map_err(|error| failed_to("write what nvcc reports", error))
    }
}
