//! A server process, and a client that sends just the bytes it is told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tilesight::image::{Image, Limits};

use crate::golden_data::golden;
use crate::on_cpu::on_cpu;

pub const PATIENCE: Duration = Duration::from_secs(120);

/// A picture of the golden model `hf_tiny`, as its file.
pub fn picture(name: &str) -> Vec<u8> {
    std::fs::read(golden("hf_tiny").join(name)).unwrap()
}

/// The embeddings of these pictures, by the library.
pub fn expected(names: &[&str]) -> Vec<f32> {
    let mut encoder = on_cpu().model(golden("hf_tiny")).build().unwrap();
    let images: Vec<Image> =
        names.iter().map(|name| Image::decode(&picture(name), &Limits::default()).unwrap()).collect();
    encoder.encode(&images).unwrap().embeddings
}

/// A running `tilesight serve`; killed when it is dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// gRPC's address.
    pub grpc: SocketAddr,
    /// The address for probes, where there is one.
    pub health: Option<SocketAddr>,
    said: Arc<Mutex<Vec<String>>>,
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Server {
    /// The golden model `hf_tiny`, ready.
    pub fn start(options: &[&str]) -> Self {
        let model = golden("hf_tiny").display().to_string();
        let server = Self::spawn(&[&["--device", "cpu", "--model", &model], options].concat(), &[]);
        server.wait_until_ready();
        server
    }

    /// Any model on any device, as soon as it listens; with these variables.
    pub fn spawn(options: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tilesight"));
        command.envs(variables.iter().copied());
        Self::run(command, options)
    }

    /// The same by a command that takes the program's arguments.
    pub fn run(mut command: Command, options: &[&str]) -> Self {
        command.args(["serve", "--listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0"]).args(options);
        command.stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (mut grpc, mut health) = (None, None);
        let address = loop {
            let Some(line) = lines.next() else { panic!("it never listened: {said:#?}") };
            let line = line.unwrap();
            said.lock().unwrap().push(line.clone());
            let own = line.strip_prefix("health and metrics on http://").map(|address| address.parse().unwrap());
            health = health.or(own);
            let logged: Option<serde_json::Value> = serde_json::from_str(&line).ok();
            let find = |protocol: &str| {
                let said = line
                    .strip_prefix("listening on ")
                    .and_then(|line| line.strip_prefix(protocol)?.strip_prefix("://"));
                said.or(logged.as_ref().and_then(|line| line[protocol].as_str()))
                    .map(|address| address.parse().unwrap())
            };
            grpc = grpc.or(find("grpc"));
            if let Some(address) = find("http") {
                break address;
            }
        };
        // What it says later is read as it comes, so that it never waits for a reader.
        let later = said.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("server: {line}");
                later.lock().unwrap().push(line);
            }
        });
        Self { child, address, grpc: grpc.expect("it says where it serves gRPC"), health, said }
    }

    /// The lines it has written to its standard error so far.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    pub fn wait_until_ready(&self) {
        wait_until("readiness", || self.get("/health/ready").status == 200);
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn get(&self, path: &str) -> Response {
        self.send(&get_head(path), b"")
    }

    /// Asks at the address for probes, by a name that is none of the server's.
    pub fn probe(&self, path: &str) -> Response {
        let mut stream = TcpStream::connect(self.health.expect("an address for probes")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(get_head(path).replace("localhost", "pod.example").as_bytes()).unwrap();
        read_response(&mut stream)
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.send(&post_head(path, headers, body.len()), body)
    }

    /// Encodes a picture of the golden model, whose embeddings must be the library's.
    pub fn encode(&self, name: &str) -> Response {
        let response = self.post("/v1/encode", &[], &picture(name));
        assert_eq!(response.status, 200, "{}", response.text());
        let file = safetensors::SafeTensors::deserialize(&response.body).unwrap();
        let embeddings = file.tensor("embeddings").unwrap();
        assert!(embeddings.data() == bytemuck::cast_slice::<f32, u8>(&expected(&[name])), "{name}");
        response
    }

    /// Sends these bytes and reads the answer.
    pub fn send(&self, head: &str, body: &[u8]) -> Response {
        let mut stream = self.connect();
        // A server that refuses early may close before it has read everything.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        read_response(&mut stream)
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// How it ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What Linux says of its process.
    pub fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.pid())).unwrap()
    }

    /// Its memory, as Linux counts it.
    pub fn resident_bytes(&self) -> u64 {
        self.bytes_of_status("VmRSS:")
    }

    /// The most of its address space that it has had.
    pub fn peak_virtual_bytes(&self) -> u64 {
        self.bytes_of_status("VmPeak:")
    }

    fn bytes_of_status(&self, field: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// A value of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
pub fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !reached() {
        assert!(begin.elapsed() < PATIENCE, "{what} never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn get_head(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

pub fn post_head(path: &str, headers: &[(&str, &str)], len: usize) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len}\r\n{headers}\r\n")
}

/// Reads an answer whose body ends with its length or with the connection.
pub fn read_response(stream: &mut TcpStream) -> Response {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    };
    let status_line = line();
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status in {status_line:?}"));
    let mut headers = Vec::new();
    loop {
        let line = line();
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.push((name.to_string(), value.to_string()));
    }
    let mut response = Response { status, headers, body: Vec::new() };
    let len = response.header("content-length").map(|len| len.parse::<u64>().unwrap());
    reader.take(len.unwrap_or(u64::MAX)).read_to_end(&mut response.body).unwrap();
    assert!(len.is_none_or(|len| len == response.body.len() as u64), "the answer ends early");
    response
}
