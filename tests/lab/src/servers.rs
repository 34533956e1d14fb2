//! The servers behind the services: nginx for HTTP, iperf3, and echo servers of our own.
//!
//! Every answer begins with the backend's name, so that a client can tell who answered and whether the answer is right.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::process::Process;
use crate::topology::{self, BACKENDS};
use crate::{command, poll, sandbox};

/// Port of nginx on the backends; `/` answers with the backend's name and a line end.
pub const HTTP_PORT: u16 = 8080;
/// Port of the UDP echo; TCP connections to it are accepted and closed, which is what a tcp health check needs.
pub const UDP_PORT: u16 = 9000;
/// Port of the TCP echo: sends its name and a line end, then returns every byte.
pub const TCP_PORT: u16 = 9001;
/// Port of iperf3.
pub const IPERF_PORT: u16 = 5201;
/// Bytes of `/large` on the backends' nginx.
pub const LARGE_BYTES: usize = 2_000_000;

/// The servers of one backend.
#[derive(Debug)]
pub struct Backend {
    /// nginx.
    pub http: Process,
    /// UDP and TCP echo.
    pub echo: Process,
    /// iperf3 server.
    pub iperf: Process,
}

/// Starts the servers of backend `index` and waits until each of them answers.
pub fn start(index: usize) -> Result<Backend> {
    let name = BACKENDS[index];
    let backend = Backend {
        http: nginx(name)?,
        echo: echo(name)?,
        iperf: Process::start(&format!("{name}-iperf3"), {
            let mut command = topology::inside(name, "iperf3");
            command.args(["-s", "-p", &IPERF_PORT.to_string()]);
            command
        })?,
    };
    for port in [HTTP_PORT, UDP_PORT, TCP_PORT, IPERF_PORT] {
        poll::until(
            &format!("port {port} of {name} listens"),
            Duration::from_secs(20),
            || listens(name, port).then_some(()),
        )?;
    }
    Ok(backend)
}

/// Whether a TCP socket listens on `port` in a namespace.
pub fn listens(namespace: &str, port: u16) -> bool {
    command::run(
        "ip",
        [
            "netns",
            "exec",
            namespace,
            "ss",
            "-Hltn",
            &format!("sport = :{port}"),
        ],
    )
    .is_ok_and(|sockets| !sockets.trim().is_empty())
}

/// Starts nginx for one backend: `/` and `/healthz` answer at once, `/large` is a file.
pub fn nginx(name: &str) -> Result<Process> {
    let home = sandbox::directory(&format!("nginx-{name}"))?;
    let large: Vec<u8> = (0..LARGE_BYTES)
        .map(|at| b'a' + u8::try_from(at % 23).expect("below 23"))
        .collect();
    std::fs::write(home.join("large"), large)?;
    let configuration = format!(
        "daemon off; master_process off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;\n\
           uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;\n\
           server {{ listen {HTTP_PORT} backlog=1024; listen [::]:{HTTP_PORT} backlog=1024; root {home};\n\
             location = / {{ return 200 '{name}\\n'; }}\n\
             location = /healthz {{ return 200 'ok\\n'; }}\n\
           }} }}\n",
        home = home.display()
    );
    let file = home.join("nginx.conf");
    std::fs::write(&file, configuration)?;
    let mut command = topology::inside(name, "nginx");
    command
        .arg("-p")
        .arg(&home)
        .arg("-c")
        .arg(&file)
        .arg("-e")
        .arg(home.join("error.log"));
    Process::start(&format!("{name}-nginx"), command)
}

/// Starts the echo servers of one backend.
pub fn echo(name: &str) -> Result<Process> {
    let mut command = topology::inside(name, lab_program()?);
    command.args(["serve", name]);
    Process::start(&format!("{name}-echo"), command)
}

/// The program of the lab that has the servers and clients as subcommands, next to the one that runs.
pub fn lab_program() -> Result<std::path::PathBuf> {
    let mut path = std::env::current_exe()?;
    path.set_file_name("lab");
    Ok(path)
}

/// The echo servers: what `lab serve NAME` does. Ends with its process.
pub fn serve(name: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let udp = UdpSocket::bind(any(UDP_PORT)).await.context("UDP echo")?;
        let health = TcpListener::bind(any(UDP_PORT))
            .await
            .context("health of the UDP echo")?;
        let tcp = TcpListener::bind(any(TCP_PORT)).await.context("TCP echo")?;
        tokio::try_join!(
            echo_udp(name, udp),
            accept_and_close(health),
            echo_tcp(name, tcp)
        )?;
        Ok(())
    })
}

async fn echo_udp(name: &str, socket: UdpSocket) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    buffer[..name.len()].copy_from_slice(name.as_bytes());
    buffer[name.len()] = b':';
    let payload = name.len() + 1;
    loop {
        // An ICMP error for an earlier answer comes back as an error here; the next request is what counts.
        if let Ok((length, from)) = socket.recv_from(&mut buffer[payload..]).await {
            let _ = socket.send_to(&buffer[..payload + length], from).await;
        }
    }
}

async fn accept_and_close(listener: TcpListener) -> Result<()> {
    loop {
        drop(listener.accept().await?);
    }
}

async fn echo_tcp(name: &str, listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let greeting = format!("{name}\n");
        // A client that goes away in the middle is no business of the others.
        tokio::spawn(async move { echo_stream(stream, greeting.as_bytes()).await });
    }
}

async fn echo_stream(mut stream: TcpStream, greeting: &[u8]) -> Result<()> {
    stream.write_all(greeting).await?;
    let mut buffer = vec![0; 16_384];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length]).await?;
    }
}
