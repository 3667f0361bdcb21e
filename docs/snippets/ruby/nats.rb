# No library: NATS speaks text. With TLS, credentials or several servers take one:
# gem install nats-pure
require "json"
require "socket"
require "uri"

def nats_publish(url, subject, payload)
  at = URI(url)
  Socket.tcp(at.host, at.port || 4222, connect_timeout: 2) do |socket|
    socket.gets # INFO {…}
    socket.write "CONNECT {\"verbose\":false}\r\n"
    socket.write "PUB #{subject} #{payload.bytesize}\r\n#{payload}\r\nPING\r\n"
    answer = socket.gets # PONG: the server has it
    raise "NATS said: #{answer}" unless answer == "PONG\r\n"
  end
end

payload = JSON.generate(id: 7, amount: "12.50")
nats_publish ENV.fetch("NATS_URL"), "clarion.orders.eu", payload # nats://127.0.0.1:4222
