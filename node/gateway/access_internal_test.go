package gateway

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestGatewayServesOnlySoManyAtOnce(t *testing.T) {
	t.Parallel()
	begun, end := make(chan struct{}), make(chan struct{})
	a, err := newAccess(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		begun <- struct{}{}
		<-end
	}), config{})
	if err != nil {
		t.Fatal(err)
	}
	visit := func() *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v1/models", nil)
		r.Host = "localhost"
		a.ServeHTTP(w, r)
		return w
	}
	ended := make(chan int)
	for range maxAtOnce {
		go func() { ended <- visit().Code }()
		<-begun
	}
	if w := visit(); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "too_many_requests") {
		t.Errorf("one too many: %d %v %s", w.Code, w.Header(), w.Body)
	}
	end <- struct{}{}
	<-ended
	go func() { ended <- visit().Code }()
	<-begun // there is room again
	close(end)
	for range maxAtOnce {
		if code := <-ended; code != http.StatusOK {
			t.Errorf("ended with %d", code)
		}
	}
}
