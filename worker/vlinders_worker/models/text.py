"""The English that the built-in models know: plain sentences with many words in common."""

SENTENCES = """
The model reads the question and writes a short answer.
The model writes one word after the other until the answer is done.
The answer is short because the model is small.
The answer is made of words that often follow each other.
The question is clear and the answer is simple.
The question comes with a few words of context.
The words of the answer come back one by one.
The first word comes quickly and the other words follow.
The last word comes when the answer is done.
The platform gives one way to every model.
The platform counts each token and charges the exact price.
The platform keeps the books and tells you what you have spent.
The price of a token is small but each token counts.
The worker runs on a machine and drives the engine.
The worker tells the scheduler what it can do.
The scheduler finds a worker that has room for the request.
The engine reads the prompt and makes the next token.
The engine stops when the client leaves.
The request goes through the gateway to the worker and back.
The request is done when the last token has come.
The gateway knows who is asking and what is allowed.
The client asks a question and reads the answer as it comes.
The client can leave at any time and pays only for what was made.
The machine is busy but the queue is short.
The machine has a little memory and a lot of time.
The data stays where it is and nothing is lost.
The system is up and everything runs as it should.
The test is small and the result is exact.
The result is ready and you can read it now.
The garden is quiet in the morning and the birds sing.
The river runs past the old town to the sea.
The sea is blue and the wind is warm.
The children play in the garden until the evening.
The evening is quiet and the light is soft.
The house stands on a hill near the river.
The road to the town is long but easy.
A butterfly sits on a flower in the garden.
A small model can answer a simple question.
A good answer is short and clear.
A good question has a clear answer.
A worker can run more than one engine.
A token is a word or a part of a word.
A book on the table tells the story of the town.
A friend of the house brings bread and fruit.
This answer comes from a small model on your own machine.
This model knows a few hundred words and likes all of them.
This sentence follows the one before and leads to the next.
This is a simple example of what the model can do.
This is how the words of an answer come together.
It is easy to ask and easy to read the answer.
It is good to know what each request has spent.
It takes a little time to think and a little time to write.
It works as it should and it stops when you ask it to.
You can ask another question at any time.
You can use a bigger model when you need a better answer.
You can read the answer now or wait until it is done.
You have one key and with it you can use every model.
We walk along the river and talk about the old days.
We keep the light on until everybody is back.
We like to read a good book in the evening.
There is a flower in the garden and a book on the table.
There is always a next word until there is none.
There is room for one more request.
When the sun is up the garden is full of light.
When the queue is short the answer comes quickly.
When the work is done we go back to the house.
If the model is busy the request waits in the queue.
If you need more words you can ask for them.
In the morning the light comes in and the day begins.
In the evening the children tell a story.
In a few words the answer is yes.
Each word follows from the word before.
Each request has a name and each name is used once.
Every token is counted and every answer has an end.
Some words are long and some words are short.
Some days are busy and some days are quiet.
Many small steps make a long road easy.
All of this runs on one machine with one command.
At the end of the day the books are right.
With a little time every question finds an answer.
For a simple question a simple answer is enough.
On the hill near the town the wind is always warm.
"""
"""What `vlinders-tiny` was made from: it has seen which word follows which, and no more."""

STOP_WORDS = """
a about all an and any are as at be been before but by can come comes each every for from has
have how if in is it its many more of on one or other past should so some than that the their
them there they this to until up was we what when where which who will with you your i me my he
she his her not no do does did
"""
"""Words that say little about what a text is about: an embedding gives them little weight."""

WORDS = """
ask answer apple art baby bank bear beer bicycle bird black blood blue boat body book bottle boy
bread bridge brother building bus business cake car card cat chair cheese chicken child church
city class clock cloud coat code coffee cold color computer cook corn country cow dance data
daughter day death desk dinner doctor dog door dream dress drink driver ear earth egg engine eye
face family farm father fire fish flower food foot forest friend fruit game garden girl glass
gold grass green hair hand happy hat head health heart history home horse hospital hot house ice
idea island job juice key king kitchen language law leaf leg letter life light lion love machine
man market meat medicine milk model money moon morning mother mountain mouse mouth movie music
name nature network news night ocean office oil paint paper park party pen people phone picture
plane plant plate price program question queen rain red rice river road room rose sad salt
school science sea server ship shirt shoe shop sister sky sleep snow song soup space sport star
station stone story street student sugar summer sun table tea teacher team tennis thing time
tiger town train travel tree truck vegetable village voice war warm watch water weather week
wind window wine winter woman wood word work world write year yellow young run walk read speak
think buy sell eat big small good bad new old fast slow high low right wrong software hardware
memory graph music guitar piano football soccer player ball goal win lose price cost pay invoice
charge token
"""
"""Common words beyond those of the sentences, whole tokens of `vlinders-tiny-embedding`."""
