import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;

class HttpPublish {
    public static void main(String[] arguments) throws Exception {
        var url = System.getenv("CLARION_URL") + "/orders/eu"; // http://127.0.0.1:8000
        var request = HttpRequest.newBuilder(URI.create(url))
                .header("Content-Type", "application/json")
                .header("X-API-Key", System.getenv("CLARION_API_KEY"))
                .timeout(Duration.ofSeconds(10))
                .POST(HttpRequest.BodyPublishers.ofString("{\"id\":7,\"amount\":\"12.50\"}"))
                .build();
        var answer = HttpClient.newHttpClient()
                .send(request, HttpResponse.BodyHandlers.ofString());
        if (answer.statusCode() != 200) { // 503: try again; 504: nobody can know
            throw new IllegalStateException(answer.statusCode() + ": " + answer.body());
        }
    }
}
